"""A file of a set against what the manifest, or the table of shards, says of it as a whole."""

from pathlib import Path

import numpy as np

from shards.format.manifest import FileEntry
from shards.store.atomic import file_sha256
from shards.store.byte_ranges import check_shortage
from shards.verify.problems import Kind, Problem


def check_file(folder: Path, entry: FileEntry, *, quick: bool, shard: int | None = None) -> list[Problem]:
    """Check that a file exists, its size and (unless ``quick``) its SHA-256."""

    def problem(kind: Kind, message: str, offset: int | None = None) -> list[Problem]:
        return [Problem(kind=kind, file=entry.file, message=message, shard=shard, offset=offset)]

    path = folder / entry.file
    try:
        if not path.is_file():
            return problem("missing", "is missing")
        size = path.stat().st_size
        if size != entry.bytes:
            return problem("size", f"has {size} bytes, the manifest says {entry.bytes}", min(size, entry.bytes))
        if not quick and file_sha256(path) != entry.sha256:
            return problem("checksum", "its SHA-256 is not the manifest's")
    except OSError as error:
        check_shortage(error)
        return problem("missing", f"cannot be read: {error.strerror}")
    return []


def first_difference(found: bytes, expected: bytes) -> int:
    """Return the first byte at which two byte strings differ, or the length of the shorter one."""
    length = min(len(found), len(expected))
    different = np.flatnonzero(np.frombuffer(found, np.uint8, length) != np.frombuffer(expected, np.uint8, length))
    return int(different[0]) if len(different) else length
