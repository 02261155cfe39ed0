"""Checking one shard: its tar against the records of its samples, its DALI index against the tar."""

from __future__ import annotations

import hashlib
import mmap
from itertools import islice
from pathlib import Path

from shards.format.layout import Rows, Split
from shards.format.manifest import FileEntry, Manifest, ShardEntry
from shards.format.tar import END, INDEX_VERSION, index_text
from shards.verify.check_tar import ShardCheck, TarChecker, first_difference
from shards.verify.problems import MAX_PER_FILE, Kind, Problem


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
        if not quick:
            with path.open("rb") as handle:
                if hashlib.file_digest(handle, "sha256").hexdigest() != entry.sha256:
                    return problem("checksum", "its SHA-256 is not the manifest's")
    except OSError as error:
        return problem("missing", f"cannot be read: {error.strerror}")
    return []


def check_shard_quickly(folder: Path, manifest: Manifest, split: Split, number: int, rows: Rows | None) -> ShardCheck:
    """Check sizes, the first and last record and header, the tar's end and the index's first line."""
    entry = manifest.splits[split].shards[number]
    check = ShardCheck(split, _check_sizes(folder, entry, number))
    if check.problems or rows is None:
        return check
    with (folder / entry.index.file).open("rb") as handle:
        first = handle.readline(64)
    if first != f"{INDEX_VERSION} {entry.samples}\n".encode():
        message = f"the first line is {first!r}"
        check.problems.append(Problem(kind="index", file=entry.index.file, message=message, shard=number, offset=0))
    with _mapped(folder / entry.file) as tar:
        if tar[-len(END) :] != END:
            message, offset = "the tar does not end with two empty blocks", entry.bytes - len(END)
            check.problems.append(
                Problem(kind="padding", file=entry.file, message=message, shard=number, offset=offset)
            )
        checker = TarChecker(tar=tar, manifest=manifest, entry=entry, number=number, check=check)
        for index in sorted({0, entry.samples - 1}):
            check.problems += checker.headers(rows[index])
    return check


def check_shard(
    folder: Path, manifest: Manifest, split: Split, number: int, rows: Rows | None, *, decode: bool
) -> ShardCheck:
    """Compare every byte of a shard's tar and index with the records and the manifest.

    Args:
        folder: the set.
        manifest: its manifest.
        split: the shard's split.
        number: the shard's number in the split.
        rows: its records; None if the table is unusable, so that only the SHA-256 can be checked.
        decode: also decode every image and mask.
    """
    entry = manifest.splits[split].shards[number]
    check = ShardCheck(split, _check_sizes(folder, entry, number))
    path = folder / entry.file
    if rows is not None and path.is_file() and path.stat().st_size:
        with _mapped(path) as tar:
            checker = TarChecker(tar=tar, manifest=manifest, entry=entry, number=number, check=check, decode=decode)
            check.problems += islice(checker.samples(rows), 10 * MAX_PER_FILE)
        if len(checker.lines) == len(rows):  # otherwise the tar is damaged; the index's SHA-256 is checked below
            check.problems += _check_index(folder, entry, number, checker.lines)
    for file in (entry, entry.index):
        if not any(problem.file == file.file for problem in check.problems):
            check.problems += check_file(folder, file, quick=False, shard=number)
    return check


def _check_sizes(folder: Path, entry: ShardEntry, number: int) -> list[Problem]:
    return [problem for file in (entry, entry.index) for problem in check_file(folder, file, quick=True, shard=number)]


def _check_index(folder: Path, entry: ShardEntry, number: int, lines: list[str]) -> list[Problem]:
    """Compare the index with the one that the tar should have."""
    path = folder / entry.index.file
    if not path.is_file():
        return []
    found, expected = path.read_bytes(), index_text(lines).encode("ascii")
    if found == expected:
        return []
    offset = first_difference(found, expected)
    line = expected[:offset].count(b"\n")
    key = lines[line - 1].split(" ")[3].split(".")[0] if 1 <= line <= len(lines) else None
    message = f"line {line + 1} does not match the tar"
    return [Problem(kind="index", file=entry.index.file, message=message, shard=number, key=key, offset=offset)]


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as handle:
        return mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
