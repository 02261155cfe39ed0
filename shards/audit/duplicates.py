"""The same picture in two splits: a leak that makes a test result too good."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shards.format.layout import Rows, Split, shard_name


@dataclass(frozen=True, order=True)
class Location:
    """A sample: its split, its row in the split's table, and its original name."""

    split: Split
    row: int
    name: str


def across_splits(folder: Path, tables: Mapping[Split, Rows]) -> Iterator[list[Location]]:
    """Yield groups of samples with the very same stored picture that are not all in one split.

    Checksums and lengths in the tables name the candidates; their bytes are then compared.

    Args:
        folder: where the tars lie.
        tables: the records of each split.
    """
    if len(tables) < 2:
        return
    names = list(tables)
    marks = np.concatenate(
        [
            rows["image_crc32"].astype(np.uint64) << np.uint64(32) | rows["image_length"].astype(np.uint64)
            for rows in tables.values()
        ]
    )
    owner = np.concatenate([np.full(len(tables[name]), i) for i, name in enumerate(names)])
    row = np.concatenate([np.arange(len(tables[name])) for name in names])
    order = np.argsort(marks, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], marks[order][1:] != marks[order][:-1]]))
    lowest = np.minimum.reduceat(owner[order], starts)
    highest = np.maximum.reduceat(owner[order], starts)
    ends = np.append(starts[1:], len(order))
    for group in np.flatnonzero(lowest != highest):
        members = order[starts[group] : ends[group]]
        candidates = [(names[owner[i]], int(row[i])) for i in members]
        yield from _equal(folder, tables, candidates)


def _equal(folder: Path, tables: Mapping[Split, Rows], candidates: list[tuple[Split, int]]) -> Iterator[list[Location]]:
    by_content: dict[bytes, list[Location]] = defaultdict(list)
    for split, row in candidates:
        name = str(json.loads(_member(folder, tables, split, row, "meta"))["name"])
        by_content[_member(folder, tables, split, row, "image")].append(Location(split, row, name))
    for group in by_content.values():
        if len({location.split for location in group}) > 1:
            yield sorted(group)


def _member(folder: Path, tables: Mapping[Split, Rows], split: Split, row: int, role: str) -> bytes:
    record = tables[split][row]
    with (folder / shard_name(split, int(record["shard"]))).open("rb") as handle:
        handle.seek(int(record[f"{role}_offset"]))
        return handle.read(int(record[f"{role}_length"]))
