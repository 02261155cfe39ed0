"""Which mask belongs to which image, and what a pair is called."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from shards.audit.findings import REASONS, SampleFinding
from shards.errors import SourceError, option
from shards.format.keys import shown
from shards.sources.layout_protocol import Pair, SplitList
from shards.sources.pairs.listing import ListedFile, UnreadFile
from shards.sources.pairs.spelling import NameIndex, differs, folded

Place: TypeAlias = tuple[
    SplitList, str
]  # split ("" for none) and key: the path below the split, without suffix and ending
Files: TypeAlias = Mapping[Place, ListedFile]


@dataclass(frozen=True, kw_only=True)
class Paired:
    """What pairing found.

    Attributes:
        pairs: complete ones, sorted by name.
        findings: images without mask, masks without image, what is no file, and pairs whose names differ.
        lists: the names of the pairs in each split that folders say.
        images: all of them, by place.
        names: of all images, by place.
        mask_names: of all masks, by place.
    """

    pairs: tuple[Pair, ...]
    findings: tuple[SampleFinding, ...]
    lists: Mapping[SplitList, frozenset[str]]
    images: Files
    names: Mapping[Place, str]
    mask_names: Mapping[Place, str]


def pair_up(
    images: Files, masks: Files, *, attributes: Callable[[Place], dict[str, str | int]] | None = None, where: str
) -> Paired:
    """Pair images and masks of the same place; if only one side has splits, of the same key.

    A pair's name is its key, or ``SPLIT/KEY`` where a key is in several splits. ``where`` is the folder, for errors.
    An image and a mask without counterpart that are spelled differently are a pair if nothing else can be meant. Raises
    ``SourceError`` if there is no pair, or names would not be unique.
    """
    images, masks = _same_splits(images, masks, where)
    masks, respelled = match_spellings(images, masks)
    places = sorted(images.keys() | masks.keys(), key=lambda place: (place[1], place[0]))
    copies = Counter(key for _, key in places)
    names = {place: f"{place[0] or 'unsplit'}/{place[1]}" if copies[place[1]] > 1 else place[1] for place in places}
    if len(set(names.values())) < len(names):
        twice = next(name for name, count in Counter(names.values()).items() if count > 1)
        raise SourceError(f"{where}: two images would be named {shown(twice)!r}; rename one of them")
    pairs: list[Pair] = []
    findings: list[SampleFinding] = []
    lists: dict[SplitList, set[str]] = defaultdict(set)
    lonely = _lonely(images, masks)
    for place in places:
        image, mask, name = images.get(place), masks.get(place), names[place]
        pair = complete_pair(name, image, mask, {} if attributes is None else attributes(place))
        if isinstance(pair, SampleFinding):
            hint = lonely[pair.reason].hint(place[1]) if pair.reason in lonely else ""
            findings.append(msgspec.structs.replace(pair, detail=_with_hint(pair, hint)) if hint else pair)
            continue
        pairs.append(pair)
        if place in respelled:
            findings.append(differs(name, respelled[place]))
        if place[0]:
            lists[place[0]].add(name)
    if not pairs:
        counts = Counter(finding.reason for finding in findings)
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
        raise SourceError(f"{where}: no image has a mask ({reasons}){_examples(images, masks)}")
    return Paired(
        pairs=tuple(sorted(pairs, key=lambda pair: pair.name)),
        findings=tuple(findings),
        lists={split: frozenset(chosen) for split, chosen in lists.items()},
        images=images,
        names={place: names[place] for place in images},
        mask_names={place: names[place] for place in masks},
    )


def complete_pair(
    name: str, image: ListedFile | None, mask: ListedFile | None, attributes: dict[str, str | int], group: str = ""
) -> Pair | SampleFinding:
    """Return the pair, or why there is none."""
    if image is None:
        return SampleFinding(shown(name), "rejected", "mask-without-image")
    if mask is None:
        return SampleFinding(shown(name), "rejected", "image-without-mask")
    if image.stamp is None:
        return SampleFinding(shown(name), "rejected", "image-not-a-file")
    if mask.stamp is None:
        return SampleFinding(shown(name), "rejected", "mask-not-a-file")
    return Pair(
        name=name,
        image=image.path,
        mask=mask.path,
        image_stamp=image.stamp,
        mask_stamp=mask.stamp,
        attributes=attributes,
        group=group,
    )


def name_lossy(paired: Paired, jpegs: Files) -> tuple[list[SampleFinding], set[str]]:
    """Return the findings, with ``mask-lossy`` for images whose mask is one of these JPEGs; and the paths of those.

    ``jpegs`` are the JPEG files in the folder of masks, their suffix cut; their places may lack the split.
    """
    by_key = {key: file for (_, key), file in jpegs.items()}
    lossy: dict[str, ListedFile] = {}
    for place, name in paired.names.items():
        file = jpegs.get(place) or by_key.get(place[1])
        if file is not None:
            lossy[shown(name)] = file
    findings = list(paired.findings)
    named = set()
    for number, finding in enumerate(findings):
        if finding.reason == "image-without-mask" and finding.name in lossy:
            path = lossy[finding.name].relative
            detail = f"there is {shown(path)}, a JPEG: masks must be lossless, save as PNG"
            findings[number] = SampleFinding(finding.name, "rejected", "mask-lossy", detail)
            named.add(path)
    return findings, named


def match_spellings(images: Files, masks: Files) -> tuple[Files, dict[Place, str]]:
    """Move masks without image to the place of the image that they can only belong to, spelled differently.

    Names that differ in case or surrounding spaces only are the same where one image and one mask are left with it, in
    one split or where one side has none. Returns the masks, and by place how the names differ.
    """
    left: dict[str, list[Place]] = defaultdict(list)
    wanted: dict[str, list[Place]] = defaultdict(list)
    for side, others, groups in ((images, masks, left), (masks, images, wanted)):
        for place in side.keys() - others.keys():
            groups[folded(place[1])].append(place)
    moved: dict[Place, Place] = {}
    for name, places in left.items():
        for place in places:
            fitting = [mask for mask in wanted.get(name, ()) if mask[0] == place[0] or "" in (mask[0], place[0])]
            rivals = [other for other in places if other[0] == place[0] or "" in (other[0], place[0])]
            if len(fitting) == len(rivals) == 1:
                moved[fitting[0]] = place
    details = {
        place: f"the mask is {shown(masks[mask].relative)}, which differs in case or spaces only"
        for mask, place in moved.items()
    }
    return {moved.get(place, place): file for place, file in masks.items()}, details


def name_unread(paired: Paired, unread: Iterable[UnreadFile], findings: Iterable[SampleFinding]) -> list[SampleFinding]:
    """Return the findings; where a mask has no image, but a file of its name is not read, they say so."""
    kinds = {file.key: file for file in unread if file.kind}
    keys = {shown(name): key for (_, key), name in paired.mask_names.items()}

    def named(finding: SampleFinding) -> SampleFinding:
        file = kinds.get(keys.get(finding.name, "")) if finding.reason == "mask-without-image" else None
        if file is None:
            return finding
        detail = f"there is {shown(file.path)}, which is not read ({file.kind}); convert it to JPEG or PNG"
        return msgspec.structs.replace(finding, detail=detail)

    return [named(finding) for finding in findings]


def _lonely(images: Files, masks: Files) -> dict[str, NameIndex]:
    """Return, by reason, the names among which one that has no counterpart may have been misspelled."""
    sides = {
        "image-without-mask": masks.keys() - images.keys(),
        "mask-without-image": images.keys() - masks.keys(),
    }
    return {reason: NameIndex({key: key for _, key in places}) for reason, places in sides.items()}


def _with_hint(finding: SampleFinding, hint: str) -> str:
    return f"{finding.detail or REASONS[finding.reason]}{hint}"


def _same_splits(images: Files, masks: Files, where: str) -> tuple[Files, Files]:
    """Give both sides the splits of the one that has any, if the other has none."""
    split_sides = [side for side in (images, masks) if any(split for split, _ in side)]
    if len(split_sides) != 1:
        return images, masks
    splits: dict[str, SplitList] = {}
    for split, key in split_sides[0]:
        if splits.setdefault(key, split) != split:
            raise SourceError(
                f"{where}: {shown(key)} is in {splits[key]} and in {split}, but only images or only masks are in such "
                "folders; put both into folders of their split"
            )

    def move(side: Files) -> Files:
        return {(splits.get(key, split), key): file for (split, key), file in side.items()}

    return move(images), move(masks)


def _examples(images: Files, masks: Files) -> str:
    def first(side: Files) -> str:
        return shown(min(file.relative for file in side.values()))

    if not images or not masks:
        return ""
    wanted = f"names must be the same, or end in the same suffix throughout ({option('image_suffix')}, "
    wanted += f"{option('mask_suffix')})"
    if {key.rpartition("/")[2] for _, key in images} & {key.rpartition("/")[2] for _, key in masks}:
        wanted = (
            "their subfolders differ; put the images below images/ and the masks below masks/, in the same subfolders"
        )
    return (
        f"; an image is {first(images)}, a mask {first(masks)}: {wanted}; a .csv with the columns image and mask can "
        "pair any names"
    )
