"""Intact files that are not those which belong there: exchanged within the set, or of another set or build."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from shards.errors import PetsegError
from shards.format.layout import TAR_BLOCK, Split, index_name, key_hash, shard_name
from shards.format.manifest import FileEntry, Manifest
from shards.format.npy import ShardEntry, ShardTable
from shards.format.tar import INDEX_VERSION, intact_header
from shards.store.atomic import file_sha256
from shards.store.byte_ranges import ByteRanges
from shards.verify.problems import Kind, Problem

_DAMAGE: Final[frozenset[Kind]] = frozenset(
    {"size", "checksum", "table", "index", "header", "member", "padding", "meta"}
)
_MANY: Final = 4  # samples that are hardly all damaged by chance
_LINE: Final = 4096  # bytes: more than the first two lines of an index take
FileOf = Callable[[str], str | None]


def file_finder(manifest: Manifest, tables: Mapping[Split, ShardTable | None]) -> FileOf:
    """Return a function that says which file of the set should have an SHA-256 (hex); None if none should."""

    def file_of(digest: str) -> str | None:
        for entry in manifest.files():
            if entry.sha256 == digest:
                return entry.file
        wanted = np.frombuffer(bytes.fromhex(digest), np.uint8)
        for split, shards in tables.items():
            for column, name in (("sha256", shard_name), ("index_sha256", index_name)):
                records = [] if shards is None else (shards.records[column] == wanted).all(axis=1).nonzero()[0].tolist()
                if records:
                    return name(split, records[0])
        return None

    return file_of


def exchanged_file(folder: Path, entry: FileEntry, file_of: FileOf) -> Problem | None:
    """Return the problem of a file that is another one of the set; None if it is not."""
    try:
        other = file_of(file_sha256(folder / entry.file)) if (folder / entry.file).is_file() else None
    except OSError:  # is a problem already
        return None
    if other in (None, entry.file):
        return None
    message = f"is {other} of this set: files were exchanged, or copied over others"
    return Problem(kind="exchanged", file=entry.file, message=message)


def shard_problems(
    folder: Path, shard: ShardEntry, problems: list[Problem], file_of: FileOf, *, first: int | None, intact: int | None
) -> Iterator[Problem]:
    """Yield the problems of a tar and its index; for a file that is another one, this problem instead of its others.

    Args:
        folder: the set's.
        shard: what its table says of the shard.
        problems: what was found.
        file_of: see :func:`file_finder`.
        first: ``key_hash`` of the shard's first sample; None if the table is unusable.
        intact: how many of its samples have no problem; None if they were not read.
    """
    for file, first_key in ((shard, _first_key_of_tar), (shard.index, _first_key_of_index)):
        own = [problem for problem in problems if problem.file == file.file]
        other = None
        if any(problem.kind in _DAMAGE for problem in own):
            other = exchanged_file(folder, file, file_of)
            key = first_key(folder / file.file) if other is None and first is not None else None
            if key is not None and key_hash(key) != first:
                message = f"is of another set, or of another build of this one: its first sample is {key!r}"
                other = Problem(kind="exchanged", file=file.file, message=message)
            elif key is not None and file is shard and intact == 0 and shard.samples >= _MANY:
                message = "none of its samples is as it was packed: it may be of another build of the set"
                yield Problem(kind="exchanged", file=file.file, shard=own[0].shard, message=message)
        if other is None:
            yield from own
        else:
            yield replace(other, shard=own[0].shard)


def _first_key_of_tar(path: Path) -> str | None:
    """Return the key in a tar's first header; None if that is not one of a set, or damaged."""
    try:
        with ByteRanges(path) as tar:
            return intact_header(tar[:TAR_BLOCK])
    except (OSError, PetsegError):
        return None


def _first_key_of_index(path: Path) -> str | None:
    try:
        with ByteRanges(path) as index:
            lines = index[:_LINE].decode("ascii").split("\n")
    except (OSError, ValueError):
        return None
    words = lines[1].split(" ") if len(lines) > 1 and lines[0].startswith(f"{INDEX_VERSION} ") else []
    return words[3].partition(".")[0] if len(words) > 3 else None
