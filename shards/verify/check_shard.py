"""Checking one tar against its records, its index and the manifest, so closely that every bit of it is compared."""

from __future__ import annotations

import hashlib
import mmap
from pathlib import Path

from shards.format.layout import Rows, Split
from shards.format.manifest import Manifest, ShardEntry
from shards.format.tar import END, INDEX_VERSION, index_text
from shards.verify.problems import Problem
from shards.verify.walk import ShardCheck, Walker, first_difference

_NAME_BYTES = 100


def check_shard_quickly(
    folder: Path, manifest: Manifest, entry: ShardEntry, rows: Rows | None, number: int
) -> ShardCheck:
    """Check sizes, the first and last record and header, the tar's end and the index's first line."""
    check = ShardCheck()
    sizes_fit = True
    for file in (entry, entry.index):
        path = folder / file.file
        size = path.stat().st_size if path.is_file() else None
        if size != file.bytes:
            sizes_fit = False
            check.problems.append(_size_problem(file.file, size, file.bytes, number))
    if not sizes_fit or rows is None:
        return check
    with (folder / entry.index.file).open("rb") as handle:
        first = handle.readline(64)
    if first != f"{INDEX_VERSION} {entry.samples}\n".encode():
        message = f"the first line is {first!r}"
        check.problems.append(Problem(kind="index", file=entry.index.file, message=message, shard=number, offset=0))
    with _mapped(folder / entry.file) as tar:
        if tar[-len(END) :] != END:
            message = "the tar does not end with two empty blocks"
            offset = entry.bytes - len(END)
            check.problems.append(
                Problem(kind="padding", file=entry.file, message=message, shard=number, offset=offset)
            )
        for index in sorted({0, entry.samples - 1}):
            walker = Walker(tar=tar, manifest=manifest, entry=entry, number=number)
            check.problems += walker.headers(rows[index])
    return check


def check_shard(
    folder: Path, manifest: Manifest, split: Split, number: int, rows: Rows | None, *, decode: bool
) -> ShardCheck:
    """Compare every byte of a shard's tar and index with what records and manifest say.

    Args:
        folder: the set.
        manifest: what it should be.
        split: the shard's split.
        number: the shard's number in it.
        rows: its records; None where the table is unusable, and only the SHA-256 can be checked.
        decode: also decode every picture and trimap.
    """
    entry = manifest.splits[split].shards[number]
    check = ShardCheck()
    for file in (entry, entry.index):
        path = folder / file.file
        size = path.stat().st_size if path.is_file() else None
        if size != file.bytes:
            check.problems.append(_size_problem(file.file, size, file.bytes, number))
    if not (folder / entry.file).is_file() or not (folder / entry.file).stat().st_size:
        return check
    with _mapped(folder / entry.file) as tar:
        found: list[Problem] = []
        if rows is not None:
            walker = Walker(tar=tar, manifest=manifest, entry=entry, number=number, decode=decode, check=check)
            found = walker.walk(rows, split)
            found += _check_index(folder, entry, number, walker.lines)
        check.problems += found
        if hashlib.sha256(tar).hexdigest() != entry.sha256 and not any(p.file == entry.file for p in check.problems):
            check.problems.append(
                Problem(kind="checksum", file=entry.file, message="its SHA-256 is not the manifest's", shard=number)
            )
    index = folder / entry.index.file
    unsuspected = index.is_file() and not any(problem.file == index.name for problem in check.problems)
    if unsuspected and hashlib.sha256(index.read_bytes()).hexdigest() != entry.index.sha256:
        check.problems.append(
            Problem(kind="checksum", file=index.name, message="its SHA-256 is not the manifest's", shard=number)
        )
    return check


def _check_index(folder: Path, entry: ShardEntry, number: int, lines: list[str | None]) -> list[Problem]:
    """Compare the index with the one that the tar should have."""
    path = folder / entry.index.file
    if not path.is_file():
        return []
    found = path.read_bytes()
    known = [line for line in lines if line is not None]
    if len(known) < len(lines):
        return []  # the tar itself is damaged; the index's SHA-256 is checked all the same
    expected = index_text(known).encode("ascii")
    if found == expected:
        return []
    offset = first_difference(found, expected)
    line = expected[:offset].count(b"\n")
    key = known[line - 1].split(" ")[3].split(".")[0] if 1 <= line <= len(known) else None
    message = f"line {line + 1} is not what the tar says"
    return [Problem(kind="index", file=entry.index.file, message=message, shard=number, key=key, offset=offset)]


def _size_problem(file: str, size: int | None, expected: int, number: int) -> Problem:
    if size is None:
        return Problem(kind="missing", file=file, message="is missing", shard=number)
    message = f"has {size} bytes, the manifest says {expected}"
    return Problem(kind="size", file=file, message=message, shard=number, offset=min(size, expected))


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as handle:
        return mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
