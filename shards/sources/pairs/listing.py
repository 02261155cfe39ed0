"""What is in a folder: its images or masks, in nested folders too, and what text lists say."""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shards.errors import SourceError
from shards.format.keys import shown
from shards.sources.layout_protocol import FileStamp

IMAGE_ENDINGS: Final = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")
JPEG_ENDINGS: Final = (".jpg", ".jpeg")
MASK_ENDINGS: Final = (".png", ".bmp", ".tif", ".tiff", ".gif")  # formats that keep every value


@dataclass(frozen=True, kw_only=True)
class ListedFile:
    """A file of a folder, or another entry that is named like one.

    Attributes:
        path: of the file.
        relative: its path below the folder that was listed, with ``/``.
        stamp: size and time; None for what is no regular file, such as a folder, a pipe or a broken link.
    """

    path: str
    relative: str
    stamp: FileStamp | None

    @property
    def key(self) -> str:
        """The relative path without ending."""
        return split_ending(self.relative)[0]


def split_ending(path: str) -> tuple[str, str]:
    """Return a path without its ending, and the ending in lower case: ``("a/b", ".jpg")``."""
    stem, dot, ending = path.rpartition(".")
    return (stem, f".{ending.lower()}") if dot and stem and not stem.endswith("/") and "/" not in ending else (path, "")


def list_files(folder: Path, endings: Sequence[str]) -> tuple[list[ListedFile], int]:
    """Return the files with one of these endings in and below a folder, sorted, and the number of other files.

    Hidden files and folders are among the others. Links are followed. Raises ``OSError`` for what cannot be read.
    """
    found: list[ListedFile] = []
    ignored = 0
    for entry, relative in _walk(folder, "", ()):
        ending = split_ending(entry.name)[1]
        if entry.name.startswith(".") or ending not in endings:
            ignored += 1
        else:
            stamp = FileStamp.of(entry.stat()) if leads_to(entry.is_file) else None
            found.append(ListedFile(path=entry.path, relative=relative, stamp=stamp))
    return sorted(found, key=lambda file: file.relative), ignored


def holds_any(folder: Path, endings: Sequence[str]) -> bool:
    """Return whether a folder, or one below it, has a visible entry with one of these endings."""
    return any(
        not entry.name.startswith(".") and split_ending(entry.name)[1] in endings for entry, _ in _walk(folder, "", ())
    )


def subfolders(folder: Path) -> list[str]:
    """Return the names of the visible folders in a folder, sorted."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and leads_to(entry.is_dir))


def leads_to(check: Callable[[], bool]) -> bool:
    """Return ``entry.is_file()`` or ``entry.is_dir()``: False for links in a circle, as for links to nothing."""
    try:
        return check()
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR):
            return False
        raise


def by_key(files: Sequence[ListedFile], folder: Path) -> dict[str, ListedFile]:
    """Return files by key; raise ``SourceError`` for two that differ in their ending only."""
    found: dict[str, ListedFile] = {}
    for file in files:
        other = found.setdefault(file.key, file)
        if other is not file:
            both = f"both {shown(other.relative)} and {shown(file.relative)}"
            raise SourceError(f"{shown(str(folder))} holds {both}; remove or rename one of them")
    return found


def read_names(path: Path) -> list[tuple[int, str]]:
    """Return the names in a text list with their line numbers; blank lines and comments (``#``) are skipped.

    Names are any bytes but line breaks. Raises ``SourceError`` for what is not a text file.
    """
    if not path.is_file():
        what = "leads nowhere" if path.is_symlink() and not path.exists() else "is not a file"
        raise SourceError(f"{shown(str(path))} {what}; a list of images was expected")
    text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    if "\0" in text:
        raise SourceError(f"{shown(str(path))} is not plain text; save it as UTF-8, one name a line")
    lines = enumerate((line.strip() for line in text.split("\n")), start=1)  # strip: "\r" too
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def _walk(
    folder: Path | str, prefix: str, above: tuple[tuple[int, int], ...]
) -> Iterator[tuple[os.DirEntry[str], str]]:
    """Yield the entries of a folder and those below it, but folders only if they are hidden or named like a file."""
    status = Path(folder).stat()
    here = status.st_dev, status.st_ino
    if here in above:  # a link to a folder that holds it
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            like_file = split_ending(entry.name)[1] in IMAGE_ENDINGS
            if entry.name.startswith(".") or like_file or not leads_to(entry.is_dir):
                yield entry, prefix + entry.name
            else:
                yield from _walk(entry.path, f"{prefix}{entry.name}/", (*above, here))
