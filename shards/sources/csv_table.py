"""A table of pairs: a .csv file with the columns ``image`` and ``mask``, optionally ``split`` and ``name``.

Paths are relative to the table; those of Windows and ``file:`` URLs are read, too. Every other column becomes an
attribute of the samples: whole numbers if all its cells are, otherwise text.
"""

import csv
import io
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shards.audit.findings import SampleFinding
from shards.errors import SourceError, counted
from shards.format.keys import shown
from shards.sources.layout_protocol import RESERVED, Pair, Source, SplitList
from shards.sources.pairs.cell_paths import FoundPath, PathFinder
from shards.sources.pairs.listing import read_text, split_ending
from shards.sources.pairs.pairing import complete_pair
from shards.sources.pairs.spelling import composed, differs
from shards.sources.pairs.split_lists import split_of
from shards.store.text_files import TextError, decode_text, is_utf8

_COLUMNS: Final = ("image", "mask", "split", "name")
_WHOLE_NUMBER: Final = re.compile(r"0|-?[1-9][0-9]{0,17}")
_LOSSY_ENDINGS: Final = (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".mpo")
_SEPARATOR_LINE: Final = re.compile(r"sep=(.)\r?\n?", re.IGNORECASE)  # Excel's own first line
_MOST_HEADER = 1 << 16  # bytes
_MOST_COLUMNS: Final = 1000
_MOST_ROW: Final = 1 << 20  # characters of a row; without a bound, one of 100 MB takes gigabytes
_SAVE: Final = "save the table as UTF-8 (Excel: CSV UTF-8)"


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A row, its cells by column; ``line`` is where it ends in the file."""

    line: int
    cells: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class _Table:
    """The text of a table from its column names on, what separates the columns, and how many lines are before it."""

    text: str
    delimiter: str
    skipped: int


class CsvLayout:
    """The layout ``csv``: the table, or a folder that holds exactly one with an image and a mask column."""

    name = "csv"

    def recognise(self, folder: Path) -> str | None:
        """See :class:`shards.sources.layout_protocol.Layout`."""
        tables = _tables(folder)
        return f"{shown(tables[0].name)} has the columns image and mask" if len(tables) == 1 else None

    def scan(self, folder: Path) -> Source:
        """See :class:`shards.sources.layout_protocol.Layout`."""
        tables = [folder] if folder.is_file() else _tables(folder)
        if len(tables) != 1:
            several = f"{len(tables)} tables ({', '.join(shown(path.name) for path in tables)}); give one of them"
            none = "no .csv file whose first line names the columns image and mask"
            raise SourceError(f"{shown(str(folder))} holds {several if tables else none}")
        return _scan_table(tables[0])


def _tables(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder] if folder.suffix.lower() == ".csv" else []
    if not folder.is_dir():
        return []
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".csv" and not path.name.startswith("."))
    return [path for path in paths if path.is_file() and _has_columns(path)]


def _has_columns(path: Path) -> bool:
    """Return whether the first line of a table names an image and a mask column; False for what is no text."""
    with path.open("rb") as handle:
        start = handle.read(_MOST_HEADER)
    try:
        return _table(decode_text(start[: len(start) // 4 * 4])) is not None
    except TextError:
        return b"\0" not in start and _table(start.decode("utf-8", "surrogateescape")) is not None


def _table(text: str) -> _Table | None:
    """Return where the table begins in a text, and its delimiter; None if no image and no mask column is named."""
    lines = io.StringIO(text, newline="")
    header = lines.readline(_MOST_HEADER)
    named = _SEPARATOR_LINE.fullmatch(header)
    if named:
        text, header = text[len(header) :], lines.readline(_MOST_HEADER)
    for delimiter in (named.group(1),) if named else (",", ";", "\t"):
        try:
            cells = next(csv.reader([header], delimiter=delimiter), [])
        except (csv.Error, TypeError, ValueError):  # the last two: a delimiter that cannot be one
            continue
        if {"image", "mask"} <= {cell.strip().casefold() for cell in cells}:
            return _Table(text=text, delimiter=delimiter, skipped=1 if named else 0)
    return None


def _scan_table(path: Path) -> Source:
    where = shown(str(path))
    table = _table(read_text(path))
    if table is None:
        raise SourceError(f"{where}:1: the first line must name the columns, among them image and mask")
    rows = _read_rows(table, where)
    finder = PathFinder(path.parent)
    found = {side: [finder.find(row.cells[side]) for row in rows] for side in ("image", "mask")}
    _check_paths(rows, found, where, folder=path.parent.absolute())
    names = _names(rows, found["image"], where)
    values = _attributes(rows)
    findings: list[SampleFinding] = []
    pairs: list[Pair] = []
    lists: dict[SplitList, set[str]] = defaultdict(set)
    for row, image, mask, name, attributes in zip(rows, found["image"], found["mask"], names, values, strict=True):
        split = _split(row, where)
        at = f"line {row.line} of {shown(path.name)}"
        if image.file is None:
            detail = f"{at}: there is no {shown(row.cells['image'])}{image.hint}"
            findings.append(SampleFinding(shown(name), "rejected", "listed-but-missing", detail))
            continue
        pair = complete_pair(name, image.file, mask.file, attributes)
        if isinstance(pair, SampleFinding):
            if mask.file is None:
                detail = f"{at}: there is no {shown(row.cells['mask'])}{mask.hint}"
                pair = SampleFinding(pair.name, pair.action, pair.reason, detail)
            findings.append(pair)
            continue
        for each in (image, mask):
            if each.difference:
                findings.append(differs(name, f"{at}: the cell for {shown(each.path)} {each.difference}"))
        pairs.append(pair)
        if split:
            lists[split].add(name)
    if not pairs:
        first = findings[0]
        raise SourceError(
            f"{where}: no row has an image and a mask that exist; the first: {first.detail or first.line()}"
        )
    return Source(
        layout=CsvLayout.name,
        reason=f"{shown(path.name)} has the columns image and mask",
        folder=path.parent,
        table=path,
        pairs=tuple(sorted(pairs, key=lambda pair: pair.name)),
        lists={split: frozenset(chosen) for split, chosen in lists.items()},
        labels=None,
        findings=tuple(sorted(findings, key=lambda finding: finding.name)),
    )


def _read_rows(table: _Table, where: str) -> list[_Row]:
    """Return the rows, with a cell for each column; blank lines are skipped."""
    rows: list[_Row] = []
    columns: list[str] = []
    line = read = 0

    def lines() -> Iterator[str]:
        nonlocal read
        text = io.StringIO(table.text, newline="")
        while part := text.readline(_MOST_ROW + 1):
            read += len(part)
            if read > _MOST_ROW:
                at = reader.line_num + table.skipped + 1
                raise SourceError(
                    f"{where}:{at}: the row has more than {_MOST_ROW} characters; this is no table of images, or a "
                    "quote is missing"
                )
            yield part

    reader = csv.reader(lines(), delimiter=table.delimiter, strict=True)
    try:
        for cells in reader:
            line, read = reader.line_num + table.skipped, 0
            if not columns:
                columns = _check_columns(cells, f"{where}:{line}")
            elif any(cell.strip() for cell in cells):
                if len(cells) != len(columns):
                    counts = f"{counted(len(cells), 'cell')}, but there are {counted(len(columns), 'column')}"
                    raise SourceError(
                        f"{where}:{line}: the row has {counts}; quote cells that hold a {table.delimiter!r}"
                    )
                rows.append(_Row(line=line, cells=dict(zip(columns, cells, strict=True))))
    except csv.Error as error:
        line = reader.line_num + table.skipped
        what = (
            "close quotes that are open" if "field limit" in str(error) else "put quotes around cells that hold quotes"
        )
        raise SourceError(f"{where}:{line}: {error}; {what}") from None
    if not rows:
        raise SourceError(f"{where} names no image; write a row for each below the line of column names")
    for row in rows:
        for column, cell in row.cells.items():
            if column not in ("image", "mask") and not is_utf8(cell):
                raise SourceError(f"{where}:{row.line}: the cell of the column {column} is not UTF-8; {_SAVE}")
    return rows


def _check_columns(cells: Sequence[str], where: str) -> list[str]:
    if len(cells) > _MOST_COLUMNS:
        raise SourceError(f"{where}: the table has {len(cells)} columns; {_MOST_COLUMNS} at most become attributes")
    columns: dict[str, None] = {}
    for number, cell in enumerate(cells, start=1):
        if not is_utf8(cell):
            raise SourceError(f"{where}: the name of column {number} is not UTF-8; {_SAVE}")
        column = cell.strip()
        column = column.casefold() if column.casefold() in _COLUMNS else column
        if not column:
            raise SourceError(
                f"{where}: column {number} has no name; name it or remove it (pandas: to_csv(index=False))"
            )
        if column in columns:
            raise SourceError(f"{where}: two columns are named {column!r}; rename or remove one of them")
        if column in RESERVED and column not in _COLUMNS:
            raise SourceError(f"{where}: a column {column!r} would hide what a set says of its samples; rename it")
        columns[column] = None
    return list(columns)


def _check_paths(rows: Sequence[_Row], found: Mapping[str, Sequence[FoundPath]], where: str, *, folder: Path) -> None:
    """Every cell of the columns image and mask has a path, each another one; no mask is a JPEG."""
    lines: dict[str, int] = {}
    for number, row in enumerate(rows):
        for side in ("image", "mask"):
            text = row.cells[side]
            if not text.strip():
                raise SourceError(f"{where}:{row.line}: the cell of the column {side} is empty; write a path")
            path = os.path.normpath(folder / found[side][number].path)
            if path in lines:
                raise SourceError(
                    f"{where}:{row.line}: {shown(text)} is in line {lines[path]}, too; list each file once"
                )
            lines[path] = row.line
        if row.cells["mask"].strip().lower().endswith(_LOSSY_ENDINGS):
            hint = "JPEG changes the values of masks; export them as PNG"
            raise SourceError(f"{where}:{row.line}: the mask {shown(row.cells['mask'])} is a JPEG: {hint}")


def _names(rows: Sequence[_Row], images: Sequence[FoundPath], where: str) -> list[str]:
    """Return the name of each row: its cell, or the image's stem, or where stems are not unique, its path."""
    if "name" in rows[0].cells:
        lines: dict[str, int] = {}
        for row in rows:
            name = composed(row.cells["name"])
            if not name.strip():
                raise SourceError(f"{where}:{row.line}: the cell of the column name is empty")
            if name in lines:
                twice = f"the name {shown(name)!r} is in line {lines[name]}, too"
                raise SourceError(f"{where}:{row.line}: {twice}; give each image its own")
            lines[name] = row.line
        return list(lines)
    keys = [composed(split_ending(os.path.normpath(image.path))[0]) for image in images]
    stems = [key.rpartition("/")[2] for key in keys]
    if len(set(stems)) == len(stems):
        return stems
    first: dict[str, int] = {}
    for key, row in zip(keys, rows, strict=True):
        line = first.setdefault(key, row.line)
        if line != row.line:
            what = f"{shown(row.cells['image'])} differs from the image of line {line} in its ending only"
            raise SourceError(f"{where}:{row.line}: {what}; add a column name")
    common = os.path.commonpath(keys) if len({key.startswith("/") for key in keys}) == 1 else ""
    return [os.path.relpath(key, common) if common else key for key in keys]


def _attributes(rows: Sequence[_Row]) -> list[dict[str, str | int]]:
    """Return the cells of all other columns, as whole numbers where a whole column is."""
    found: list[dict[str, str | int]] = [{} for _ in rows]
    for column in rows[0].cells:
        if column not in _COLUMNS:
            cells = [row.cells[column] for row in rows]
            whole = all(_WHOLE_NUMBER.fullmatch(cell) for cell in cells)
            for attributes, cell in zip(found, cells, strict=True):
                attributes[column] = int(cell) if whole else shown(cell)
    return found


def _split(row: _Row, where: str) -> SplitList:
    text = row.cells.get("split", "").strip()
    split = split_of(text) if text else ""
    if split is None:
        raise SourceError(f"{where}:{row.line}: split {shown(text)!r} is none of train, val, test, trainval")
    return split
