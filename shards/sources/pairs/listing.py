"""What is in a folder: its images or masks, in nested folders too, and what text lists say.

Files with a usual ending count as what it says; the audit looks at their content. Others count by their first bytes:
``.JPE``, ``.jfif``, no ending at all. What counts neither way is named in the report, except for known litter.
"""

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shards.audit.file_kinds.signatures import (
    IMAGE_ENDINGS,
    KNOWN_ENDINGS,
    RARE_ENDINGS,
    READABLE,
    START,
    file_kind,
    is_proof,
)
from shards.errors import SourceError
from shards.format.keys import shown
from shards.sources.layout_protocol import FileStamp
from shards.sources.pairs.spelling import composed
from shards.store.byte_ranges import read_regular
from shards.store.text_files import TextError, decode_text, split_lines

JPEG_ENDINGS: Final = (".jpg", ".jpeg")
MASK_ENDINGS: Final = (".png", ".bmp", ".tif", ".tiff", ".gif")  # formats that keep every value

_MOST_WAYS: Final = 100  # by links, to one folder
_MOST_LINE: Final = 1 << 14  # characters of a line of a list
# By which first bytes a file counts whose ending says nothing; a lossy WebP is no mask, which the audit finds.
_KINDS: Final = {
    IMAGE_ENDINGS: READABLE,
    MASK_ENDINGS: {"PNG", "GIF", "WebP", "TIFF", "BMP", "PPM"},
    JPEG_ENDINGS: {"JPEG"},
}
_OTHER_FILES: Final = (".txt", ".xml", ".json", ".csv", ".md", ".mat", ".npy", ".npz", ".yaml", ".yml", ".py", ".html")
# Called with the path of a file whose first bytes are looked at; they may have to be fetched (store_mirror).
LOOKING_INTO: Final[ContextVar[Callable[[str], object]]] = ContextVar("LOOKING_INTO", default=lambda _: None)
_LITTER: Final = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "__macosx", "$recycle.bin"}


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
        """The relative path in Unicode's composed form, without the ending of an image."""
        return name_of(self.relative)


@dataclass(frozen=True, kw_only=True)
class UnreadFile:
    """A file that is neither taken nor known litter; ``kind`` is what it starts like, "" if unknown."""

    path: str  # below the folder that was listed
    kind: str = ""

    @property
    def key(self) -> str:
        """The path without any ending, to compare it with the names of images."""
        return composed(split_ending(self.path)[0])


@dataclass(frozen=True, kw_only=True)
class FolderListing:
    """What a folder holds: the files that were asked for, sorted; those that nobody asked for; how much is litter."""

    files: list[ListedFile]
    unread: list[UnreadFile] = field(default_factory=list)
    litter: int = 0


def name_of(path: str) -> str:
    """Return a path in Unicode's composed form, without the ending of an image; any other ending is part of a name."""
    stem, ending = split_ending(path)
    return composed(stem if ending in KNOWN_ENDINGS else path)


def split_ending(path: str) -> tuple[str, str]:
    """Return a path without its ending, and the ending in lower case: ``("a/b", ".jpg")``."""
    stem, dot, ending = path.rpartition(".")
    return (stem, f".{ending.lower()}") if dot and stem and not stem.endswith("/") and "/" not in ending else (path, "")


def list_files(folder: Path, endings: tuple[str, ...], *, nested: bool = True) -> FolderListing:
    """Return the files of these kinds in and below a folder, and what else is there.

    Of files without a usual ending those count that begin like one, unless another file has their name already. Hidden
    files and folders are litter. Links are followed. Raises ``OSError`` for what cannot be read.

    Args:
        folder: is searched with its subfolders, unless ``nested`` is False.
        endings: :data:`IMAGE_ENDINGS`, :data:`MASK_ENDINGS` or :data:`JPEG_ENDINGS`.
    """
    found: list[ListedFile] = []
    others: list[tuple[ListedFile, str]] = []
    litter = 0
    for entry, relative in _walk(folder, nested=nested):
        if is_litter(entry.name):
            litter += 1
            continue
        stamp = FileStamp.of(entry.stat()) if leads_to(entry.is_file) else None
        file = ListedFile(path=entry.path, relative=relative, stamp=stamp)
        if split_ending(entry.name)[1] in endings:
            found.append(file)
        else:
            others.append((file, _kind(entry, file)))
    taken = {file.key for file in found}
    unread = []
    for file, kind in sorted(others, key=lambda other: other[0].relative):
        if _counts(file, kind, endings) and file.key not in taken:
            taken.add(file.key)
            found.append(file)
        else:
            unread.append(UnreadFile(path=file.relative, kind=kind))
    return FolderListing(files=sorted(found, key=lambda file: file.relative), unread=unread, litter=litter)


def holds_any(folder: Path, endings: tuple[str, ...]) -> bool:
    """Return whether a folder, or one below it, has a visible entry of these kinds."""

    def matches(entry: os.DirEntry[str], relative: str) -> bool:
        file = ListedFile(path=entry.path, relative=relative, stamp=None)
        by_name = split_ending(entry.name)[1] in endings
        return not is_litter(entry.name) and (by_name or _counts(file, _kind(entry, file), endings))

    return any(matches(entry, relative) for entry, relative in _walk(folder))


def is_litter(name: str) -> bool:
    """Return whether operating systems and file managers leave files or folders of this name behind."""
    return name.startswith(".") or name.casefold() in _LITTER


def subfolders(folder: Path) -> list[str]:
    """Return the names of the visible folders in a folder, sorted."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not is_litter(entry.name) and leads_to(entry.is_dir))


def leads_to(check: Callable[[], bool]) -> bool:
    """Return ``entry.is_file()`` or ``entry.is_dir()``: False for links in a circle, as for links to nothing."""
    try:
        return check()
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR):
            return False
        raise


def by_key(files: Sequence[ListedFile], folder: Path) -> dict[str, ListedFile]:
    """Return files by key; raise ``SourceError`` for two that have the same."""
    found: dict[str, ListedFile] = {}
    for file in files:
        other = found.setdefault(file.key, file)
        if other is not file:
            both = f"both {shown(other.relative)} and {shown(file.relative)}"
            if split_ending(other.relative)[1] == split_ending(file.relative)[1] and not file.relative.isascii():
                both += ", the same name in two Unicode forms (composed and decomposed)"
            raise SourceError(f"{shown(str(folder))} holds {both}; remove or rename one of them")
    return found


def read_names(path: Path) -> list[tuple[int, str]]:
    """Return the names in a text list with their line numbers; blank lines and comments (``#``) are skipped.

    Names are any text but line breaks, without spaces around. Raises ``SourceError`` for what is not a text file.
    """
    if not path.is_file():
        what = "leads nowhere" if path.is_symlink() and not path.exists() else "is not a file"
        raise SourceError(f"{shown(str(path))} {what}; a list of images was expected")
    # Files that were put together have byte-order marks in the middle, too.
    lines = enumerate((line.strip().lstrip("\ufeff").strip() for line in split_lines(read_text(path))), start=1)
    found = [(number, line) for number, line in lines if line and not line.startswith("#")]
    for number, line in found:
        if len(line) > _MOST_LINE:
            raise SourceError(
                f"{shown(str(path))}:{number}: the line has {len(line)} characters; write the name or path of an image "
                "a line"
            )
    return found


def read_text(path: Path) -> str:
    """Return a text file's content; raise ``SourceError`` with file and line if it is in another encoding."""
    try:
        return decode_text(read_regular(path))
    except TextError as error:
        raise SourceError(f"{shown(str(path))}:{error.line}: {error}") from None


def unread_lines(folder: Path, root: Path, unread: Sequence[UnreadFile]) -> list[str]:
    """Return files that are not read for the report, ``images/a.heic (HEIC)``: relative to the dataset's folder."""
    prefix = Path(os.path.relpath(folder, root)).as_posix()
    paths = [(file.path if prefix == "." else f"{prefix}/{file.path}", file.kind) for file in unread]
    return [shown(path) + (f" ({kind})" if kind else "") for path, kind in paths]


def _counts(file: ListedFile, kind: str, endings: tuple[str, ...]) -> bool:
    """Return whether a file without a usual ending is of the kinds that are asked for."""
    return kind in _KINDS.get(endings, ()) and is_proof(kind, split_ending(file.relative)[1])


def _kind(entry: os.DirEntry[str], file: ListedFile) -> str:
    if split_ending(file.relative)[1] in _OTHER_FILES or not leads_to(entry.is_file):
        return "" if leads_to(entry.is_file) else "a folder" if leads_to(entry.is_dir) else "not a file"
    LOOKING_INTO.get()(entry.path)
    try:
        with open(entry.path, "rb", buffering=0) as handle:  # noqa: PTH123 - Path.open is slower; folders may be large
            # The audit says what is wrong with a file that is not what its ending says.
            return file_kind(handle.read(START)) or RARE_ENDINGS.get(split_ending(file.relative)[1], "")
    except OSError as error:
        return f"cannot be opened: {error.strerror}"


def _walk(folder: Path | str, *, nested: bool = True) -> Iterator[tuple[os.DirEntry[str], str]]:
    """Yield the entries of a folder and those below it, but folders only if they are litter or named like a file.

    Links are followed, but to a folder that holds the one they are in: one to ``/`` would list every disk.
    Two links in each of some folders to the next one lead to the last in as many ways as 2 has powers: raises
    ``SourceError`` where more than :data:`_MOST_WAYS` lead to one.
    """
    around = tuple((each.st_dev, each.st_ino) for each in map(Path.stat, Path(os.path.realpath(folder)).parents))
    pending: list[tuple[Path | str, str, tuple[tuple[int, int], ...], bool]] = [(folder, "", around, False)]
    ways: Counter[tuple[int, int]] = Counter()  # to folders, by links
    while pending:  # folders may be nested more deeply than calls
        folder, prefix, above, linked = pending.pop()
        status = Path(folder).stat()
        here = status.st_dev, status.st_ino
        if here in above:  # a link to a folder that holds it
            continue
        if linked:
            ways[here] += 1
        if ways[here] > _MOST_WAYS:
            what = f"links lead to {shown(os.path.realpath(folder))} in more than {_MOST_WAYS} ways"
            raise SourceError(f"{what}, such as {shown(str(folder))}; remove those that are not needed")
        with os.scandir(folder) as entries:
            for entry in entries:
                like_file = is_litter(entry.name) or split_ending(entry.name)[1] in IMAGE_ENDINGS
                if not nested or like_file or not leads_to(entry.is_dir):
                    yield entry, prefix + entry.name
                else:
                    linked_too = linked or entry.is_symlink()
                    pending.append((entry.path, f"{prefix}{entry.name}/", (*above, here), linked_too))
