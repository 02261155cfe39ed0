"""Paths as tables have them: of another system, as ``file:`` URLs, in another case, Unicode form or encoding."""

import errno
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from shards.format.keys import shown
from shards.sources.layout_protocol import FileStamp
from shards.sources.pairs.listing import ListedFile, split_ending
from shards.sources.pairs.spelling import NearNames, composed, folded
from shards.store.text_files import as_windows_1252, is_utf8

_MISSING: Final = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
_DRIVE: Final = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_MOST_HINTS: Final = 25  # missing files for which the nearest are looked up


@dataclass(frozen=True, kw_only=True)
class FoundPath:
    """What a cell stands for.

    Attributes:
        path: relative to the table or absolute, with ``/``; of a file that is missing, what the cell says.
        file: None where there is nothing.
        difference: how the cell differs from the file's name, "" where it does not.
        hint: where there is nothing, the end of a message.
    """

    path: str
    file: ListedFile | None
    difference: str = ""
    hint: str = ""


class PathFinder:
    """Finds files from the cells of a table in ``folder``; it lists every folder at most once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._entries: dict[Path, dict[str, list[str]]] = {}
        self._hints = 0

    def find(self, text: str) -> FoundPath:
        """Return the file that a cell stands for: the path as it is, else the only one that can be meant."""
        options = list(_readings(text))
        for path in options:
            if (file := self._file(path)) is not None:
                return FoundPath(path=path, file=file)
        for path in options:
            found = self._respelled(path)
            if found is not None and (file := self._file(found)) is not None:
                same = composed(found) == composed(path)
                return FoundPath(path=found, file=file, difference="" if same else "differs in case or spaces only")
        if not is_utf8(text):
            found_path = self.find(as_windows_1252(text))
            if found_path.file is not None:
                difference = "is not UTF-8; read as Windows-1252"
                return FoundPath(path=found_path.path, file=found_path.file, difference=difference)
        return FoundPath(path=options[-1], file=None, hint=self._hint(text, options[-1]))

    def _file(self, path: str) -> ListedFile | None:
        whole = self._folder / path
        try:
            status = whole.stat()
        except OSError as error:
            if error.errno in _MISSING:
                return None
            raise
        stamp = FileStamp.of(status) if whole.is_file() else None
        return ListedFile(path=str(whole), relative=path, stamp=stamp)

    def _respelled(self, path: str) -> str | None:
        """Return the only existing path that differs in case, Unicode form or spaces; None if there is not one."""
        here = Path("/") if path.startswith("/") else Path()
        for part in Path(path).parts:
            if part in ("/", "..") or _exists(self._folder / here / part):
                here /= part
                continue
            names = self._listed(self._folder / here).get(folded(part), [])
            same = [name for name in names if composed(name) == composed(part)]
            chosen = same if len(same) == 1 else names
            if len(chosen) != 1:
                return None
            here /= chosen[0]
        return here.as_posix()

    def _hint(self, text: str, path: str) -> str:
        if _DRIVE.match(text.strip()) or text.strip().lower().startswith("file:"):
            return "; write paths relative to the table"
        self._hints += 1
        if self._hints > _MOST_HINTS:
            return ""
        folder, _, name = path.rpartition("/")
        entries = self._listed(self._folder / folder)
        several = entries.get(folded(name), [])
        if len(several) > 1:
            return f"; it may be any of {', '.join(shown(each) for each in several[:3])}"
        stems = {folded(split_ending(each)[0]): each for names in entries.values() for each in names}
        found = [stems[stem] for stem in NearNames(stems).find(folded(split_ending(name)[0]))]
        return f"; nearest: {', '.join(map(shown, found))}" if found else ""

    def _listed(self, folder: Path) -> dict[str, list[str]]:
        """Return the entries of a folder by their folded name; none of what is no folder."""
        if folder not in self._entries:
            names: dict[str, list[str]] = defaultdict(list)
            try:
                for name in sorted(entry.name for entry in folder.iterdir()):
                    names[folded(name)].append(name)
            except OSError:
                names.clear()  # it is not there, or may not be listed: nothing is nearer
            self._entries[folder] = dict(names)
        return self._entries[folder]


def _exists(path: Path) -> bool:
    """Whether there is something; a name that is too long for that is nothing, not an error."""
    try:
        path.stat()
    except OSError as error:
        if error.errno in _MISSING:
            return False
        raise
    return True


def _path_of_url(text: str) -> str:
    """Return the path in a ``file:`` URL; the text itself where it is no URL, or names what no file can have."""
    try:
        path = unquote(urlsplit(text).path)
    except ValueError:  # such as file://[a
        return text
    return text if "\0" in path else path


def _readings(text: str) -> Iterator[str]:
    """Yield the paths that a cell may stand for: as it is, without spaces around, from a URL, with ``/`` for ``\\``."""
    yield text
    plain = text.strip()
    if plain != text:
        yield plain
    if plain.lower().startswith("file:"):
        path = _path_of_url(plain)
        plain = path[1:] if _DRIVE.match(path[1:]) else path
        yield plain
    if "\\" in plain:
        yield plain.replace("\\", "/")
