"""Which images the text lists of a dataset name, by split."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from shards.audit.file_kinds.signatures import KNOWN_ENDINGS
from shards.audit.findings import SampleFinding
from shards.errors import SourceError
from shards.format.keys import shown
from shards.sources.layout_protocol import SplitList
from shards.sources.pairs.listing import name_of, read_names
from shards.sources.pairs.pairing import Paired
from shards.sources.pairs.spelling import NameIndex, differs, variants

_SPLIT_WORDS: Final = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test", "trainval": "trainval",
}  # fmt: skip
_MOST_CUT: Final = 64  # leading folders of a path of another machine
_YEAR: Final = re.compile(r"(?:19|20)\d\d")


def split_of(word: str) -> SplitList | None:
    """Return the split that a folder's or a list's name stands for: ``train`` for ``Training`` or ``train2017``."""
    return _SPLIT_WORDS.get(_YEAR.sub("", word.casefold()))


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
        path = name_of(os.path.relpath(file.path, folder)).split("/")
        for alias in {place[1], *("/".join(path[start:]) for start in range(len(path)))}:
            found[alias] = name if found.get(alias, name) == name else None
    return found | exact


def listed_splits(
    paths: Mapping[SplitList, Path], aliases: Mapping[str, str | None]
) -> tuple[dict[SplitList, frozenset[str]], list[SampleFinding]]:
    """Return the names that each list has, and which images it names that do not exist or are spelled differently.

    A line is a name, or a path with or without ending; what follows it (a mask's path, a number) is ignored. Of a list
    that names no image so, leading folders are ignored. Raises ``SourceError`` for a list that still names none.
    """
    lists: dict[SplitList, frozenset[str]] = {}
    found: dict[str, SampleFinding] = {}
    index = NameIndex(aliases)
    for split, path in paths.items():
        lines = read_names(path)
        if not lines:
            raise SourceError(f"{shown(str(path))} names no image; remove the file, or write a name a line")
        # Where nothing is found as it is written, the list may be from another machine.
        chosen, unusual = _matches(lines, path, split, index)
        if not chosen:
            chosen, unusual = _matches(lines, path, split, index, shortened=True)
        if not chosen:
            number, line = lines[0]
            raise SourceError(
                f"{shown(str(path))}:{number}: there is no image {shown(line)!r}, nor one of any other line"
                f"{index.hint(line)}; write the name or path of an image a line"
            )
        found = unusual | found
        lists[split] = frozenset(chosen)
    return lists, list(found.values())


def _matches(
    lines: Sequence[tuple[int, str]], path: Path, split: SplitList, index: NameIndex, *, shortened: bool = False
) -> tuple[set[str], dict[str, SampleFinding]]:
    """Return the names of the images that a list's lines mean, and by line what is missing or spelled differently.

    ``shortened``: of ``/data/CamVid/train/a.png``, ``CamVid/train/a`` and ``train/a`` may be meant, too.
    """
    chosen: set[str] = set()
    found: dict[str, SampleFinding] = {}
    for number, line in lines:
        where = f"line {number} of {shown(path.name)}"
        meant = [each for text in variants(line, KNOWN_ENDINGS) for each in (text, f"{split}/{text}")]
        if shortened:
            meant += [text.split("/", cut)[cut] for text in meant for cut in range(1, min(text.count("/"), _MOST_CUT))]
        match = index.find(meant)
        if match is None:
            found.setdefault(
                line, SampleFinding(shown(line), "rejected", "listed-but-missing", where + index.hint(line))
            )
        else:
            chosen.add(match.name)
            if match.difference:
                found.setdefault(line, differs(match.name, f"{where}, {shown(line)!r}, {match.difference}"))
    return chosen, found
