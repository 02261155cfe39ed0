"""The folder of pictures in the official layout: which pictures there are, and what the lists say of them.

``images/NAME.jpg``, ``annotations/trimaps/NAME.png``, ``annotations/{list,trainval,test}.txt`` with lines
``NAME CLASS SPECIES BREED``. Litter (AppleDouble files, ``.mat`` files and the like) is counted and left alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import msgspec

from shards.audit.reasons import Note
from shards.errors import SourceError
from shards.format.keys import shown

PICTURE_ENDINGS = ("jpg", "jpeg")
TRIMAP_ENDINGS = ("png",)
TORCHVISION_FOLDER = "oxford-iiit-pet"  # what torchvision puts into the folder that it is given
LISTS = ("trainval", "test", "list")


class Stamp(msgspec.Struct, frozen=True, array_like=True):
    """Size in bytes and time of the last change in nanoseconds: enough to notice that a file has changed."""

    bytes: int
    changed: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """Take the stamp from what the file system says."""
        return cls(bytes=status.st_size, changed=status.st_mtime_ns)


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """A picture and its trimap. ``lists`` are those that name it; ``class_id`` and ``species`` are 0 if unknown."""

    name: str
    image: str
    trimap: str
    image_stamp: Stamp
    trimap_stamp: Stamp
    breed: str
    class_id: int = 0
    species: int = 0


@dataclass(frozen=True)
class Source:
    """What a scan found.

    Attributes:
        folder: where.
        pairs: complete pairs that a list names, or all where there are no lists; sorted by name.
        lists: the names that each list of a split (``trainval``, ``test``) holds.
        notes: what was left out so far, and why.
        ignored: number of files that are no part of the dataset.
    """

    folder: Path
    pairs: tuple[Pair, ...]
    lists: dict[str, frozenset[str]]
    notes: tuple[Note, ...]
    ignored: int


@dataclass
class _Listed:
    """The lists' lines by name: (class, species), and which lists hold the name."""

    numbers: dict[str, tuple[int, int]] = field(default_factory=dict)
    lists: dict[str, frozenset[str]] = field(default_factory=dict)

    @cached_property
    def names(self) -> set[str]:
        return set().union(*self.lists.values())


def scan(folder: Path) -> Source:
    """Look through a folder in the official layout; reads the lists and the folders, opens no picture.

    Raises:
        SourceError: the folder is not in the official layout, holds no picture, or something cannot be read.
    """
    try:
        return _scan(folder)
    except OSError as error:
        what = f"{error.filename or folder} cannot be read ({error.strerror})"
        raise SourceError(f"{what}; put it right and run the same command again") from None


def _scan(folder: Path) -> Source:
    if not (folder / "images").exists() and (folder / TORCHVISION_FOLDER / "images").is_dir():
        folder = folder / TORCHVISION_FOLDER
    images, trimaps = folder / "images", folder / "annotations" / "trimaps"
    _check_layout(folder, images, trimaps)
    pictures, litter = _files_by_stem(images, PICTURE_ENDINGS)
    masks, more_litter = _files_by_stem(trimaps, TRIMAP_ENDINGS)
    if not pictures:
        raise SourceError(f"{images} holds no .jpg file")
    listed = _read_lists(folder / "annotations")
    notes: list[Note] = []
    pairs: list[Pair] = []
    for name in sorted(pictures.keys() | masks.keys() | listed.names):
        note = _why_left_out(name, pictures.get(name), masks.get(name), listed)
        if note is not None:
            notes.append(note)
            continue
        image, trimap = pictures[name], masks[name]
        class_id, species = listed.numbers.get(name, (0, 0))
        pairs.append(
            Pair(
                name=name,
                image=image.path,
                trimap=trimap.path,
                image_stamp=Stamp.of(image.stat()),
                trimap_stamp=Stamp.of(trimap.stat()),
                breed=breed_of(name),
                class_id=class_id,
                species=species,
            )
        )
    if not pairs:
        raise SourceError(f"{folder}: no picture has a trimap and a place in the lists; {_counts(notes)}")
    by_split: dict[str, frozenset[str]] = {
        name: listed.lists[name] for name in ("trainval", "test") if name in listed.lists
    }
    return Source(folder=folder, pairs=tuple(pairs), lists=by_split, notes=tuple(notes), ignored=litter + more_litter)


def breed_of(name: str) -> str:
    """Return the breed in a picture's name: ``american_bulldog_100`` is of ``american_bulldog``."""
    stem, _, number = name.rpartition("_")
    return shown(stem) if stem and number.isdigit() else "unknown"


def _check_layout(folder: Path, images: Path, trimaps: Path) -> None:
    if not folder.exists():
        raise SourceError(
            f"no such folder: {folder}; get the pictures with petseg-shard download, "
            "or made-up ones with petseg-shard sample"
        )
    for path in (folder, images, trimaps):
        if not path.is_dir():
            raise SourceError(
                f"{folder} is not in the official layout: there is no folder {path}; expected images/NAME.jpg, "
                "annotations/trimaps/NAME.png and annotations/{list,trainval,test}.txt"
            )


def _files_by_stem(folder: Path, endings: tuple[str, ...]) -> tuple[dict[str, os.DirEntry[str]], int]:
    """Return the folder's entries by name without ending, and how many entries are litter."""
    found: dict[str, os.DirEntry[str]] = {}
    litter = 0
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            stem, _, ending = entry.name.rpartition(".")
            if entry.name.startswith("._") or not stem or ending.lower() not in endings:
                litter += 1
            elif stem in found:
                raise SourceError(f"{folder} holds both {found[stem].name} and {entry.name}; remove one of them")
            else:
                found[stem] = entry
    return found, litter


def _read_lists(annotations: Path) -> _Listed:
    listed = _Listed()
    for list_name in LISTS:
        path = annotations / f"{list_name}.txt"
        if not path.exists():
            continue
        if not path.is_file():
            raise SourceError(f"{path} is not a file; a list of pictures was expected")
        names = set()
        for name, numbers in _read_list(path):
            names.add(name)
            listed.numbers.setdefault(name, numbers)
        listed.lists[list_name] = frozenset(names)
    return listed


def _read_list(path: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield name and (class, species); a line is ``NAME CLASS SPECIES BREED`` or a NAME alone."""
    for line in path.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        parts = text.rsplit(maxsplit=3)
        if len(parts) == 4 and all(part.isascii() and part.isdigit() for part in parts[1:]):
            class_id, species = int(parts[1]), int(parts[2])
            yield parts[0], (class_id if class_id < 2**16 else 0, species if species in (1, 2) else 0)
        else:
            yield text, (0, 0)


def _why_left_out(
    name: str, picture: os.DirEntry[str] | None, trimap: os.DirEntry[str] | None, listed: _Listed
) -> Note | None:
    """Return why a name cannot be packed, or None."""
    reason = None
    if picture is None:
        reason = "listed-but-missing" if name in listed.names else "trimap-without-picture"
    elif trimap is None:
        reason = "picture-without-trimap"
    elif listed.lists and name not in listed.names:
        reason = "not-listed"
    elif not picture.is_file():
        reason = "picture-not-a-file"
    elif not trimap.is_file():
        reason = "trimap-not-a-file"
    return Note(name=shown(name), action="left-out", reason=reason) if reason else None


def _counts(notes: list[Note]) -> str:
    reasons = [note.reason for note in notes]
    return ", ".join(f"{reasons.count(reason)} {reason}" for reason in sorted(set(reasons)))
