"""The same image in two splits: a leak that makes a test result too good."""

import contextlib
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeAlias

import numpy as np

from shards.audit.findings import SampleFinding
from shards.errors import FormatError
from shards.format.layout import Rows, Split, member_span

_MOST_NAMED: Final = 5  # of the others; of thousands of black tiles, each would name all others

ReadTar: TypeAlias = Callable[[Split, int, int, int], bytes]  # (split, shard, offset, length), bytes of a tar


def duplicates_across_splits(read: ReadTar, tables: Mapping[Split, Rows]) -> Iterator[SampleFinding]:
    """Yield a warning for each sample whose stored image is, byte by byte, also in another split.

    Checksums and lengths in ``tables``, the records of each split, give the candidates; their bytes in the tars are
    then read and compared.
    """
    marks = {
        split: rows["image_crc32"].astype(np.uint64) << np.uint64(32) | rows["image_length"].astype(np.uint64)
        for split, rows in tables.items()
    }
    values, splits = np.unique(np.concatenate([np.unique(mark) for mark in marks.values()]), return_counts=True)
    candidates = {split: np.flatnonzero(np.isin(mark, values[splits > 1])) for split, mark in marks.items()}
    groups: dict[bytes, list[tuple[Split, int]]] = defaultdict(list)
    for split, rows in sorted(candidates.items()):
        for row in rows:
            image = _member(read, split, tables[split][row], "image")
            groups[hashlib.sha256(image).digest()].append((split, int(row)))
    for group in groups.values():
        if len({split for split, _ in group}) > 1:
            names = [_name(_member(read, split, tables[split][row], "meta"), split) for split, row in group]
            for number, (split, _) in enumerate(group):
                first = [i for i in range(min(len(group), _MOST_NAMED + 1)) if i != number][:_MOST_NAMED]
                more = f" and {len(group) - 1 - len(first)} more" if len(group) - 1 > len(first) else ""
                detail = f"the same image as {', '.join(f'{names[i]} in {group[i][0]}' for i in first)}{more}"
                yield SampleFinding(names[number], "warning", "duplicate-across-splits", detail, split)


def _name(meta: bytes, split: Split) -> str:
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
        return str(json.loads(meta)["name"])
    raise FormatError(
        f"a shard of {split} has been damaged since it was built; remove what the tasks have built, and run them again"
    )


def _member(read: ReadTar, split: Split, row: Rows, role: str) -> bytes:
    offset, length = member_span(row, role)
    return read(split, int(row["shard"]), offset, length)
