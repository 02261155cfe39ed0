"""The official layout of Oxford-IIIT Pet: which images there are, and what the lists say about them.

``images/NAME.jpg``, ``annotations/trimaps/NAME.png``, ``annotations/{list,trainval,test}.txt`` with lines
``NAME CLASS SPECIES BREED``. AppleDouble files and the like are counted and ignored; others are named.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shards.audit.file_kinds.signatures import IMAGE_ENDINGS, KNOWN_ENDINGS
from shards.audit.findings import SampleFinding
from shards.errors import SourceError
from shards.format.builtin_labels import PETS
from shards.format.keys import shown
from shards.sources.layout_protocol import Pair, Source
from shards.sources.pairs.listing import MASK_ENDINGS, UnreadFile, by_key, list_files, read_names, unread_lines
from shards.sources.pairs.pairing import complete_pair, match_spellings
from shards.sources.pairs.spelling import NameIndex, differs, variants

TORCHVISION_FOLDER = "oxford-iiit-pet"  # what torchvision creates in the folder that it is given
SPLIT_LISTS = ("trainval", "test")
_REASON = "it has images/ and annotations/trimaps/"
_NUMBER: Final = re.compile("[0-9]{1,18}")  # Python refuses to read what has thousands of digits
SPECIES = ("unknown", "cat", "dog")  # the dataset's own numbers: 1 cat, 2 dog


class PetsLayout:
    """The layout ``pets``."""

    name = "pets"

    def recognise(self, folder: Path) -> str | None:
        """See :class:`shards.sources.layout_protocol.Layout`."""
        root = _root(folder)
        found = (root / "images").is_dir() and (root / "annotations" / "trimaps").is_dir()
        return _REASON if found else None

    def scan(self, folder: Path) -> Source:
        """See :class:`shards.sources.layout_protocol.Layout`."""
        return _scan(_root(folder))


def _root(folder: Path) -> Path:
    """Return the dataset's folder: this one, or the one that torchvision has created in it."""
    inner = folder / TORCHVISION_FOLDER
    return inner if not (folder / "images").exists() and (inner / "images").is_dir() else folder


def _scan(folder: Path) -> Source:
    for path in (folder, folder / "images", folder / "annotations" / "trimaps"):
        if not path.is_dir():
            raise SourceError(
                f"{folder} is not in the layout of Oxford-IIIT Pet: there is no folder {path}; expected "
                "images/NAME.jpg, annotations/trimaps/NAME.png and annotations/{list,trainval,test}.txt"
            )
    image_list = list_files(folder / "images", IMAGE_ENDINGS, nested=False)
    mask_list = list_files(folder / "annotations" / "trimaps", MASK_ENDINGS, nested=False)
    image_files = {("", key): file for key, file in by_key(image_list.files, folder / "images").items()}
    mask_files = {("", key): file for key, file in by_key(mask_list.files, folder / "annotations/trimaps").items()}
    if not image_files:
        raise SourceError(f"{folder / 'images'} holds no image")
    matched, respelled = match_spellings(image_files, mask_files)
    images, masks = ({key: file for (_, key), file in side.items()} for side in (image_files, matched))
    index = NameIndex({alias: name for name in images | masks for alias in (name, f"images/{name}")})
    paths = {name: folder / "annotations" / f"{name}.txt" for name in (*SPLIT_LISTS, "list")}
    read = {name: _read_list(path, index) for name, path in paths.items() if os.path.lexists(path)}
    listed = _merged(read.values())
    findings = [finding for each in read.values() for finding in each.findings]
    findings += [differs(key, detail) for (_, key), detail in respelled.items()]
    unread = {file.key: file for file in image_list.unread if file.kind}
    pairs: list[Pair] = []
    for name in sorted(images.keys() | masks.keys() | listed.keys()):
        image, mask = images.get(name), masks.get(name)
        class_id, species = listed.get(name, (0, 0))
        breed = breed_of(name)
        attributes: dict[str, str | int] = {"breed": breed, "species": SPECIES[species], "class_id": class_id}
        pair = complete_pair(name, image, mask, attributes, breed)
        if image is not None and mask is not None and read and name not in listed:
            pair = SampleFinding(shown(name), "rejected", "not-listed")
        if isinstance(pair, Pair):
            pairs.append(pair)
        elif image is None:
            findings.append(_missing(name, read.values(), index, unread.get(name)))
        else:
            findings.append(pair)
    if not pairs:
        counts = Counter(finding.reason for finding in findings)
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
        raise SourceError(f"{folder}: no image has a mask and an entry in the lists; {reasons}")
    return Source(
        layout="pets",
        reason=_REASON,
        folder=folder,
        pairs=tuple(pairs),
        lists={name: frozenset(read[name].entries) for name in SPLIT_LISTS if name in read},
        labels=PETS,
        findings=tuple(sorted(findings, key=lambda finding: finding.name)),
        ignored=image_list.litter + mask_list.litter,
        unread=(
            *unread_lines(folder / "images", folder, image_list.unread),
            *unread_lines(folder / "annotations" / "trimaps", folder, mask_list.unread),
        ),
    )


def breed_of(name: str) -> str:
    """Return the breed in an image's name: ``american_bulldog_100`` is an ``american_bulldog``."""
    stem, _, number = name.rpartition("_")
    return shown(stem) if stem and number.isdigit() else "unknown"


@dataclass(frozen=True, kw_only=True)
class _NameList:
    """What a list says: (class, species) by name, 0 where it does not; the line of each name; misspelled names."""

    path: Path
    entries: dict[str, tuple[int, int]]
    lines: dict[str, int]
    findings: list[SampleFinding]


def _read_list(path: Path, index: NameIndex) -> _NameList:
    """Read a list; a line is ``NAME CLASS SPECIES BREED`` or a NAME alone, and the first line of a name counts."""
    found = _NameList(path=path, entries={}, lines={}, findings=[])
    for number, text in read_names(path):
        parts = text.rsplit(maxsplit=3)
        numbers = (0, 0)
        if len(parts) == 4 and all(map(_NUMBER.fullmatch, parts[1:])):
            class_id, species = int(parts[1]), int(parts[2])
            numbers = class_id if class_id < 2**16 else 0, species if species in (1, 2) else 0
            text = parts[0]  # noqa: PLW2901 - the rest of the line is read
        match = index.find(variants(text, KNOWN_ENDINGS, first_word=False))
        name = text if match is None else match.name
        if match is not None and match.difference and name not in found.entries:
            detail = f"line {number} of {path.name}, {shown(text)!r}, {match.difference}"
            found.findings.append(differs(name, detail))
        found.entries.setdefault(name, numbers)
        found.lines.setdefault(name, number)
    return found


def _merged(lists: Iterable[_NameList]) -> dict[str, tuple[int, int]]:
    """Return class and species of each name, from the first list that has them."""
    merged: dict[str, tuple[int, int]] = {}
    for each in lists:
        for name, (class_id, species) in each.entries.items():
            known = merged.get(name, (0, 0))
            merged[name] = known[0] or class_id, known[1] or species
    return merged


def _missing(name: str, lists: Iterable[_NameList], index: NameIndex, unread: UnreadFile | None) -> SampleFinding:
    """Return the finding for a name without image: who names it, and what may be meant."""
    where = next((f"line {each.lines[name]} of {each.path.name}" for each in lists if name in each.lines), "")
    detail = where + (index.hint(name) if where else "")
    if unread is not None:
        detail = f"there is images/{shown(unread.path)}, which is not read ({unread.kind}); convert it to JPEG or PNG"
    return SampleFinding(shown(name), "rejected", "listed-but-missing" if where else "mask-without-image", detail)
