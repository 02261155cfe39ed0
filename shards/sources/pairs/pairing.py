"""Which mask belongs to which image, what a pair is called, and which pairs the text lists name."""

import itertools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from shards.audit.findings import SampleFinding
from shards.errors import SourceError
from shards.format.keys import shown
from shards.sources.layout_protocol import Pair, SplitList
from shards.sources.pairs.listing import IMAGE_ENDINGS, ListedFile, read_names, split_ending

_SPLIT_WORDS: Final = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test", "trainval": "trainval",
}  # fmt: skip
_SEPARATORS: Final = ("", "_", "-", ".", " ")  # "": of an empty suffix
_YEAR: Final = re.compile(r"(?:19|20)\d\d")

Place: TypeAlias = tuple[
    SplitList, str
]  # split ("" for none) and key: the path below the split, without suffix and ending
Files: TypeAlias = Mapping[Place, ListedFile]


@dataclass(frozen=True, kw_only=True)
class Paired:
    """What pairing found.

    Attributes:
        pairs: complete ones, sorted by name.
        findings: images without mask, masks without image, and what is no file.
        lists: the names of the pairs in each split that folders say.
        images: all of them, by place.
        names: of all images, by place.
    """

    pairs: tuple[Pair, ...]
    findings: tuple[SampleFinding, ...]
    lists: Mapping[SplitList, frozenset[str]]
    images: Files
    names: Mapping[Place, str]


def split_of(word: str) -> SplitList | None:
    """Return the split that a folder's or a list's name stands for: ``train`` for ``Training`` or ``train2017``."""
    return _SPLIT_WORDS.get(_YEAR.sub("", word.casefold()))


def pair_up(
    images: Files, masks: Files, *, attributes: Callable[[Place], dict[str, str | int]] | None = None, where: str
) -> Paired:
    """Pair images and masks of the same place; if only one side has splits, of the same key.

    A pair's name is its key, or ``SPLIT/KEY`` where a key is in several splits. ``where`` is the folder, for errors.
    Raises ``SourceError`` if there is no pair, or names would not be unique.
    """
    images, masks = _same_splits(images, masks, where)
    places = sorted(images.keys() | masks.keys(), key=lambda place: (place[1], place[0]))
    copies = Counter(key for _, key in places)
    names = {place: f"{place[0] or 'unsplit'}/{place[1]}" if copies[place[1]] > 1 else place[1] for place in places}
    if len(set(names.values())) < len(names):
        twice = next(name for name, count in Counter(names.values()).items() if count > 1)
        raise SourceError(f"{where}: two images would be named {shown(twice)!r}; rename one of them")
    pairs: list[Pair] = []
    findings: list[SampleFinding] = []
    lists: dict[SplitList, set[str]] = defaultdict(set)
    for place in places:
        image, mask, name = images.get(place), masks.get(place), names[place]
        pair = complete_pair(name, image, mask, {} if attributes is None else attributes(place))
        if isinstance(pair, SampleFinding):
            findings.append(pair)
            continue
        pairs.append(pair)
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


def name_lossy(paired: Paired, jpegs: Files) -> tuple[list[SampleFinding], int]:
    """Return the findings, with ``mask-lossy`` for images whose mask is one of these JPEGs; and how many there are.

    ``jpegs`` are the JPEG files in the folder of masks, their suffix cut; their places may lack the split.
    """
    by_key = {key: file for (_, key), file in jpegs.items()}
    lossy: dict[str, ListedFile] = {}
    for place, name in paired.names.items():
        file = jpegs.get(place) or by_key.get(place[1])
        if file is not None:
            lossy[shown(name)] = file
    findings = list(paired.findings)
    named = 0
    for number, finding in enumerate(findings):
        if finding.reason == "image-without-mask" and finding.name in lossy:
            detail = f"there is {shown(lossy[finding.name].relative)}, a JPEG: masks must be lossless, save as PNG"
            findings[number] = SampleFinding(finding.name, "rejected", "mask-lossy", detail)
            named += 1
    return findings, named


def aliases_of(paired: Paired, folder: Path) -> dict[str, str | None]:
    """Return the names of all images by everything that a list may call them; None where that is not one image.

    That is the name, the key, the path below ``folder`` or below any folder in it, and the file's name alone, each
    without ending.
    """
    found: dict[str, str | None] = {}
    exact: dict[str, str] = {}
    for place, file in paired.images.items():
        name = paired.names[place]
        exact |= {name: name, f"{place[0]}/{place[1]}": name}
        path = split_ending(os.path.relpath(file.path, folder))[0].split("/")
        for alias in {place[1], *("/".join(path[start:]) for start in range(len(path)))}:
            found[alias] = name if found.get(alias, name) == name else None
    return found | exact


def listed_splits(
    paths: Mapping[SplitList, Path], aliases: Mapping[str, str | None]
) -> tuple[dict[SplitList, frozenset[str]], list[SampleFinding]]:
    """Return the names that each list has, and which images it names that do not exist.

    A line is a name, or a path with or without ending; what follows it (a mask's path, a number) is ignored. Raises
    ``SourceError`` for a list that names no image.
    """
    lists: dict[SplitList, frozenset[str]] = {}
    missing: dict[str, SampleFinding] = {}
    for split, path in paths.items():
        lines = read_names(path)
        if not lines:
            raise SourceError(f"{shown(str(path))} names no image; remove the file, or write a name a line")
        chosen = set()
        for number, line in lines:
            name = _resolve(line, split, aliases)
            if name is None:
                detail = f"line {number} of {shown(path.name)}"
                missing.setdefault(line, SampleFinding(shown(line), "rejected", "listed-but-missing", detail))
            else:
                chosen.add(name)
        if not chosen:
            number, line = lines[0]
            raise SourceError(
                f"{shown(str(path))}:{number}: there is no image {shown(line)!r}, nor one of any other line; write the "
                "name or path of an image a line"
            )
        lists[split] = frozenset(chosen)
    return lists, list(missing.values())


def _resolve(line: str, split: SplitList, aliases: Mapping[str, str | None]) -> str | None:
    for text in (line, line.split(maxsplit=1)[0]):
        plain = text.removeprefix("./").lstrip("/")
        stem, ending = split_ending(plain)
        for alias in (plain, stem) if ending in IMAGE_ENDINGS else (plain,):
            name = aliases.get(alias) or aliases.get(f"{split}/{alias}")
            if name is not None:
                return name
    return None


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
    return (
        f"; an image is {first(images)}, a mask {first(masks)}: names must be the same, or end in the same suffix "
        "throughout (--image-suffix, --mask-suffix); a .csv with the columns image and mask can pair any names"
    )


def has_suffix(file: ListedFile, suffix: str) -> bool:
    """Return whether a file's name ends with a suffix, which may include the ending (``_mask.png``) or not."""
    stem, ending = _parts_of(suffix)
    base = file.key.removesuffix(stem)
    whole = file.key.endswith(stem) and bool(base) and not base.endswith("/")
    return whole and (not ending or file.relative.lower().endswith(ending))


def cut_suffixes(
    images: Files, masks: Files, jpegs: Files, given: tuple[str | None, str | None]
) -> tuple[Files, Files, Files]:
    """Cut the suffixes of images and of masks off the keys, which all have them; those found, if none is given.

    ``jpegs`` are masks that cannot be used; they have a say only where nothing fits without them.
    """
    if given == (None, None):
        keys = [[key for _, key in side] for side in (images, masks, jpegs)]
        found = common_suffixes(keys[0], keys[1]) or (common_suffixes(keys[0], keys[1] + keys[2]) if jpegs else None)
        suffixes = found or ("", "")
    else:
        suffixes = _parts_of(given[0] or "")[0], _parts_of(given[1] or "")[0]

    def cut(side: Files, suffix: str) -> Files:
        return {(split, key.removesuffix(suffix)): file for (split, key), file in side.items()}

    return cut(images, suffixes[0]), cut(masks, suffixes[1]), cut(jpegs, suffixes[1])


def common_suffixes(images: Iterable[str], masks: Iterable[str]) -> tuple[str, str] | None:
    """Return the suffixes (of image and mask) whose removal makes the keys the same; None without any.

    The shortest ones, preferably such that begin with a separator: ``_rgb`` and ``_mask``, not ``rgb`` and ``mask``.
    None, too, if some keys are the same as they are.
    """
    all_images, all_masks = set(images), set(masks)
    if not all_images or not all_masks or all_images & all_masks:
        return None
    example = min(all_images)
    options = [
        (image_suffix, mask_suffix)
        for image_suffix in _endings(all_images)
        for mask_suffix in _endings(all_masks)
        if example.removesuffix(image_suffix) + mask_suffix in all_masks
    ]

    def rank(option: tuple[str, str]) -> tuple[bool, int, tuple[str, str]]:
        return not all(suffix[:1] in _SEPARATORS for suffix in option), sum(map(len, option)), option

    for image_suffix, mask_suffix in sorted(options, key=rank):
        bases = {key.removesuffix(image_suffix) for key in all_images}
        if bases == {key.removesuffix(mask_suffix) for key in all_masks}:
            return image_suffix, mask_suffix
    return None


def _endings(keys: set[str]) -> list[str]:
    """Return every suffix that all keys have, the empty one first; none takes a whole file name."""
    backwards = [key.rpartition("/")[2][::-1] for key in keys]
    first, last = min(backwards), max(backwards)  # what these two share at their start, all do
    shared = list(itertools.takewhile(lambda both: both[0] == both[1], zip(first, last, strict=False)))
    longest = min(len(shared), min(map(len, backwards)) - 1)
    return [first[:length][::-1] for length in range(longest + 1)]


def _parts_of(suffix: str) -> tuple[str, str]:
    """Return the part of a suffix before the ending of an image file, and the ending in lower case, if it has one."""
    stem, ending = ("", suffix.lower()) if suffix.startswith(".") else split_ending(suffix)
    return (stem, ending) if ending in IMAGE_ENDINGS else (suffix, "")
