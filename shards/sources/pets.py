"""The official layout of Oxford-IIIT Pet: which images there are, and what the lists say about them.

``images/NAME.jpg``, ``annotations/trimaps/NAME.png``, ``annotations/{list,trainval,test}.txt`` with lines
``NAME CLASS SPECIES BREED``. Other files (AppleDouble files, ``.mat`` files and the like) are counted and ignored.
"""

import os
from collections import ChainMap, Counter
from pathlib import Path

from shards.audit.findings import SampleFinding
from shards.errors import SourceError
from shards.format.builtin_labels import PETS
from shards.format.keys import shown
from shards.sources.layout_protocol import FileStamp, Pair, Source
from shards.sources.pairs.listing import leads_to, read_names

TORCHVISION_FOLDER = "oxford-iiit-pet"  # what torchvision creates in the folder that it is given
SPLIT_LISTS = ("trainval", "test")
_REASON = "it has images/ and annotations/trimaps/"
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
    images, ignored = _files_by_stem(folder / "images", ("jpg", "jpeg"))
    masks, more_ignored = _files_by_stem(folder / "annotations" / "trimaps", ("png",))
    if not images:
        raise SourceError(f"{folder / 'images'} holds no .jpg file")
    paths = {name: folder / "annotations" / f"{name}.txt" for name in (*SPLIT_LISTS, "list")}
    lists = {name: _read_list(path) for name, path in paths.items() if os.path.lexists(path)}
    numbers = dict(ChainMap(*lists.values()))  # the first list that names an image counts
    findings: list[SampleFinding] = []
    pairs: list[Pair] = []
    for name in sorted(images.keys() | masks.keys() | numbers.keys()):
        image, mask = images.get(name), masks.get(name)
        reason = _why_rejected(image, mask, listed=name in numbers, any_list=bool(lists))
        if image is None or mask is None or reason:
            findings.append(SampleFinding(shown(name), "rejected", reason))
            continue
        class_id, species = numbers.get(name, (0, 0))
        breed = breed_of(name)
        pairs.append(
            Pair(
                name=name,
                image=image.path,
                mask=mask.path,
                image_stamp=FileStamp.of(image.stat()),
                mask_stamp=FileStamp.of(mask.stat()),
                attributes={"breed": breed, "species": SPECIES[species], "class_id": class_id},
                group=breed,
            )
        )
    if not pairs:
        counts = Counter(finding.reason for finding in findings)
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
        raise SourceError(f"{folder}: no image has a mask and an entry in the lists; {reasons}")
    return Source(
        layout="pets",
        reason=_REASON,
        folder=folder,
        pairs=tuple(pairs),
        lists={name: frozenset(lists[name]) for name in SPLIT_LISTS if name in lists},
        labels=PETS,
        findings=tuple(findings),
        ignored=ignored + more_ignored,
    )


def breed_of(name: str) -> str:
    """Return the breed in an image's name: ``american_bulldog_100`` is an ``american_bulldog``."""
    stem, _, number = name.rpartition("_")
    return shown(stem) if stem and number.isdigit() else "unknown"


def _files_by_stem(folder: Path, endings: tuple[str, ...]) -> tuple[dict[str, os.DirEntry[str]], int]:
    """Return the folder's entries by name without ending, and how many other entries there are."""
    found: dict[str, os.DirEntry[str]] = {}
    ignored = 0
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            stem, _, ending = entry.name.rpartition(".")
            if entry.name.startswith("._") or not stem or ending.lower() not in endings:
                ignored += 1
            elif stem in found:
                raise SourceError(f"{folder} holds both {found[stem].name} and {entry.name}; remove one of them")
            else:
                found[stem] = entry
    return found, ignored


def _read_list(path: Path) -> dict[str, tuple[int, int]]:
    """Return (class, species) by name; a line is ``NAME CLASS SPECIES BREED`` or a NAME alone, the first one counts."""
    entries: dict[str, tuple[int, int]] = {}
    for _, text in read_names(path):
        parts = text.rsplit(maxsplit=3)
        if len(parts) == 4 and all(part.isascii() and part.isdigit() for part in parts[1:]):
            class_id, species = int(parts[1]), int(parts[2])
            numbers = class_id if class_id < 2**16 else 0, species if species in (1, 2) else 0
            entries.setdefault(parts[0], numbers)
        else:
            entries.setdefault(text, (0, 0))
    return entries


def _why_rejected(
    image: os.DirEntry[str] | None, mask: os.DirEntry[str] | None, *, listed: bool, any_list: bool
) -> str:
    """Return the reason why a name cannot be packed, or an empty text."""
    if image is None:
        return "listed-but-missing" if listed else "mask-without-image"
    if mask is None:
        return "image-without-mask"
    if any_list and not listed:
        return "not-listed"
    if not leads_to(image.is_file):
        return "image-not-a-file"
    return "" if leads_to(mask.is_file) else "mask-not-a-file"
