"""The same name spelled differently: in another Unicode form, case or encoding, or with a folder and an ending.

The same text in Unicode's composed and decomposed form (a zip that was unpacked on macOS) is the same name; names are
in the composed form (NFC) throughout. Any other difference is bridged only where a single name can be meant, and said.
"""

import difflib
import re
import unicodedata
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from shards.audit.findings import SampleFinding
from shards.format.keys import is_safe, shown
from shards.store.text_files import as_windows_1252, is_utf8

_ALL: Final = 500  # names that are all compared with one that is missing; of more, those that begin alike
_NEIGHBOURS: Final = 40
_MOST_NEAREST: Final = 25  # names of a scan for which the nearest are looked up: each takes milliseconds
_CANDIDATES: Final = 3
_FIRST: Final = re.compile(r"[\s,;]")


def composed(text: str) -> str:
    """Return a text in Unicode's composed form, NFC."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def folded(text: str) -> str:
    """Return what is the same for names that differ in case, Unicode form or surrounding spaces only."""
    return composed(composed(text).casefold()).strip()


@dataclass(frozen=True, kw_only=True)
class SpellingMatch:
    """A name that is meant; ``difference`` says how the text differs from it, "" where it does not."""

    name: str
    difference: str = ""


class NearNames:
    """Finds the names that resemble a text most; the time does not grow with their number.

    Of many names only those are compared that are near in the alphabet, read forwards or backwards.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._forwards = sorted(names)
        self._backwards = sorted(name[::-1] for name in self._forwards) if len(self._forwards) > _ALL else []

    def find(self, text: str) -> list[str]:
        """Return the names, the nearest first; the text itself is none."""
        compared = {*_around(text, self._forwards), *(name[::-1] for name in _around(text[::-1], self._backwards))}
        return difflib.get_close_matches(text, sorted(compared - {text}), n=_CANDIDATES)


def _around(text: str, names: list[str]) -> list[str]:
    if len(names) <= _ALL:
        return names
    at = bisect_left(names, text)
    return names[max(0, at - _NEIGHBOURS) : at + _NEIGHBOURS]


@dataclass
class NameIndex:
    """Names by everything that they may be called; see :func:`variants` for what a text may be.

    ``aliases`` have the composed form; their value is None where they may stand for several names.
    """

    aliases: Mapping[str, str | None]
    _asked: int = field(default=0, init=False)

    def find(self, texts: Iterable[str]) -> SpellingMatch | None:
        """Return the name that one of these texts stands for, the first one first; None if that is not one name."""
        options = list(texts)
        for text in options:
            name = self.aliases.get(composed(text))
            if name is not None:
                return SpellingMatch(name=name)
        for text in options:
            found = self._folded.get(folded(text), set())
            if len(found) == 1:
                return SpellingMatch(name=next(iter(found)), difference="differs in case or spaces only")
        for text in options:
            if not is_utf8(text):
                match = self.find([as_windows_1252(text)])
                if match is not None:
                    return SpellingMatch(name=match.name, difference="is not UTF-8; read as Windows-1252")
        return None

    def hint(self, text: str) -> str:
        """Return the nearest names as the end of a message, ``; nearest: a, b``; "" if there are none, or too often."""
        self._asked += 1
        if self._asked > _MOST_NEAREST:
            return ""
        text = text if is_utf8(text) else as_windows_1252(text)
        several = self._folded.get(folded(text), set())
        if len(several) > 1 or self.aliases.get(composed(text), text) is None:
            which = sorted(several) or [name for name in self._names if name.rpartition("/")[2] == composed(text)]
            return f"; it may be any of {', '.join(map(shown, which[:_CANDIDATES]))}"
        found = self._near.find(folded(text))
        names = dict.fromkeys(name for each in found for name in sorted(self._folded[each]))
        return f"; nearest: {', '.join(shown(name) for name in list(names)[:_CANDIDATES])}" if names else ""

    @cached_property
    def _folded(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = defaultdict(set)
        for alias, name in self.aliases.items():
            if name is not None:
                found[folded(alias)].add(name)
        return dict(found)

    @cached_property
    def _near(self) -> NearNames:
        return NearNames(self._folded)

    @cached_property
    def _names(self) -> list[str]:
        return sorted({name for name in self.aliases.values() if name is not None})


def variants(line: str, endings: Iterable[str], *, first_word: bool = True) -> Iterator[str]:
    """Yield what a line of a list may mean, the most likely first: a name, or a path with or without ending.

    ``endings`` are those of images. With ``first_word`` what follows the name (a mask's path, a number) may be ignored.
    Backslashes separate folders only where nothing has the text as it is.
    """
    texts = [line, *([_FIRST.split(line, 1)[0]] if first_word else [])]
    texts += [text.replace("\\", "/") for text in texts if "\\" in text]
    texts += [text[1:-1] for text in texts if len(text) > 2 and text[0] == text[-1] and text[0] in "\"'"]
    for text in texts:
        plain = text.removeprefix("./").lstrip("/")
        stem, dot, ending = plain.rpartition(".")
        yield plain
        if dot and stem and f".{ending.lower()}" in endings:
            yield stem


def differs(name: str, detail: str) -> SampleFinding:
    """Return the warning for a name that is spelled differently elsewhere."""
    return SampleFinding(shown(name), "warning", "name-differs", detail)


def case_collisions(names: Iterable[str]) -> list[SampleFinding]:
    """Return a warning for each name that is its own key and differs from another one in case only."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if is_safe(name):
            groups[name.casefold()].append(name)
    found = []
    for group in groups.values():
        for name in group if len(group) > 1 else ():
            others = ", ".join(other for other in sorted(group) if other != name)
            detail = f"differs from {others} in case only; unpacked where case does not count, one replaces the other"
            found.append(SampleFinding(name, "warning", "name-case-only", detail))
    return found
