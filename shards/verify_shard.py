"""Checking one tar against its records, its index and the manifest, so closely that every bit of it is compared."""

from __future__ import annotations

import hashlib
import json
import mmap
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from shards.decode import check_stored
from shards.findings import RejectedError
from shards.format import MEMBERS, SPECIES, Rows, Split, key_hash, row_check
from shards.manifest import Manifest, ShardEntry
from shards.problems import MAX_PER_FILE, Problem
from shards.tar import BLOCK, END, INDEX_VERSION, header, index_line, index_text, padded

_NAME_BYTES = 100


@dataclass
class ShardCheck:
    """What was found in a shard, and what its samples add up to."""

    problems: list[Problem] = field(default_factory=list)
    breeds: Counter[str] = field(default_factory=Counter)
    species: Counter[str] = field(default_factory=Counter)
    class_pixels: list[int] = field(default_factory=lambda: [0, 0, 0])


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
            walker = _Walker(tar=tar, manifest=manifest, entry=entry, number=number)
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
            walker = _Walker(tar=tar, manifest=manifest, entry=entry, number=number, decode=decode, check=check)
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


@dataclass
class _Walker:
    """Goes through a tar, sample by sample."""

    tar: mmap.mmap
    manifest: Manifest
    entry: ShardEntry
    number: int
    decode: bool = False
    check: ShardCheck = field(default_factory=ShardCheck)
    lines: list[str | None] = field(default_factory=list)

    def walk(self, rows: Rows, split: Split) -> list[Problem]:
        """Check all samples and what stands between and after them."""
        problems: list[Problem] = []
        sound = row_check(rows) == rows["check"]
        position = 0
        for index, row in enumerate(rows):
            if not sound[index] or int(row["shard"]) != self.number or not self._fits(row, position):
                self.lines.append(None)
                if sound[index]:
                    message = f"record {index} of the shard does not point to where the sample stands"
                    problems.append(self._problem("table", message, offset=position))
                position = -1
            else:
                problems += self._sample(index, row, split)
                position = _end(row)
            if len(problems) > 10 * MAX_PER_FILE:
                self.lines += [None] * (len(rows) - len(self.lines))
                return problems
        if position >= 0 and self.tar[position:] != END:
            problems.append(self._problem("padding", "the tar does not end with two empty blocks", offset=position))
        return problems

    def headers(self, row: Any) -> list[Problem]:
        """Check a record and the headers of its members."""
        if row_check(np.array([row]))[0] != row["check"] or not self._fits(row, int(row["image_offset"]) - BLOCK):
            return [self._problem("table", "a record is damaged or points outside the tar")]
        key = self._key(row)
        if key is None:
            return [self._bad_key(row)]
        return list(self._headers(row, key))

    def _sample(self, index: int, row: Any, split: Split) -> Iterator[Problem]:
        key = self._key(row)
        if key is None:
            self.lines.append(None)
            yield self._bad_key(row)
            yield from self._contents(row, None)
            return
        members = [
            (extension, int(row[f"{role}_offset"]), int(row[f"{role}_length"]))
            for role, extension in MEMBERS[self.manifest.storage]
        ]
        self.lines.append(index_line(key, members))
        yield from self._headers(row, key)
        damaged = list(self._contents(row, key))
        yield from damaged
        if not damaged:
            yield from self._meta(row, key, split)
            yield from self._layout(index, row, key)
            if self.decode:
                yield from self._decodes(row, key)

    def _fits(self, row: Any, position: int) -> bool:
        """Return whether the record's members follow each other from ``position`` on, inside the tar."""
        start = position if position >= 0 else int(row["image_offset"]) - BLOCK
        for role, _ in MEMBERS[self.manifest.storage]:
            if int(row[f"{role}_offset"]) != start + BLOCK:
                return False
            start += BLOCK + padded(int(row[f"{role}_length"]))
        return 0 <= start <= len(self.tar) - len(END)

    def _key(self, row: Any) -> str | None:
        """Return the key in the first header if its hash is the record's."""
        at = int(row["image_offset"]) - BLOCK
        name = self.tar[at : at + _NAME_BYTES].split(b"\0", 1)[0].decode("ascii", "replace")
        key, _, extension = name.partition(".")
        expected = MEMBERS[self.manifest.storage][0][1]
        return key if extension == expected and key_hash(key) == int(row["key_hash"]) else None

    def _bad_key(self, row: Any) -> Problem:
        at = int(row["image_offset"]) - BLOCK
        name = self.tar[at : at + _NAME_BYTES].split(b"\0", 1)[0]
        return self._problem("header", f"the name {name!r} is not that of the sample", offset=at)

    def _headers(self, row: Any, key: str) -> Iterator[Problem]:
        for role, extension in MEMBERS[self.manifest.storage]:
            at, length = int(row[f"{role}_offset"]), int(row[f"{role}_length"])
            found, expected = self.tar[at - BLOCK : at], header(f"{key}.{extension}", length)
            if found != expected:
                offset = at - BLOCK + _first_difference(found, expected)
                yield self._problem("header", "the tar header is damaged", key, extension, offset)

    def _contents(self, row: Any, key: str | None) -> Iterator[Problem]:
        for role, extension in MEMBERS[self.manifest.storage]:
            at, length = int(row[f"{role}_offset"]), int(row[f"{role}_length"])
            with memoryview(self.tar) as view, view[at : at + length] as content:
                crc = zlib.crc32(content)
            if crc != int(row[f"{role}_crc32"]):
                yield self._problem("member", "the content does not fit its CRC-32", key, extension, at)
            end = at + length
            if any(self.tar[end : at + padded(length)]):
                yield self._problem("padding", "bytes after the member are not zero", key, extension, end)

    def _meta(self, row: Any, key: str, split: Split) -> Iterator[Problem]:
        at = int(row["meta_offset"])
        try:
            document = json.loads(self.tar[at : at + int(row["meta_length"])])
            self.check.breeds[str(document["breed"])] += 1
            self.check.species[str(document["species"])] += 1
            expected = {
                "key": key,
                "split": split,
                "width": int(row["width"]),
                "height": int(row["height"]),
                "class_id": int(row["class_id"]),
                "species": SPECIES[int(row["species"])],
            }
            wrong = [name for name, value in expected.items() if document[name] != value]
        except (ValueError, KeyError, TypeError, IndexError) as error:
            yield self._problem("meta", f"cannot be read: {error}", key, "json", at)
            return
        if wrong:
            yield self._problem("meta", f"contradicts the table in {', '.join(wrong)}", key, "json", at)

    def _layout(self, index: int, row: Any, key: str) -> Iterator[Problem]:
        """In ``raw`` storage every sample stands where the manifest's arithmetic says."""
        raw = self.manifest.raw
        if raw is not None and int(row["image_offset"]) - BLOCK != index * raw.stride:
            message = f"the sample does not stand at {index} x {raw.stride} bytes"
            yield self._problem("table", message, key, offset=int(row["image_offset"]))

    def _decodes(self, row: Any, key: str) -> Iterator[Problem]:
        members = {
            role: self.tar[int(row[f"{role}_offset"]) : int(row[f"{role}_offset"]) + int(row[f"{role}_length"])]
            for role in ("image", "trimap")
        }
        try:
            pixels = check_stored(
                members["image"],
                members["trimap"],
                storage=self.manifest.storage,
                size=self.manifest.size,
                original=(int(row["width"]), int(row["height"])),
            )
        except RejectedError as error:
            role = "trimap" if error.reason.startswith("trimap") else "image"
            extension = dict(MEMBERS[self.manifest.storage])[role]
            message = f"{error.reason}: {error.detail}" if error.detail else error.reason
            yield self._problem("decode", message, key, extension, int(row[f"{role}_offset"]))
            return
        for index, count in enumerate(pixels):
            self.check.class_pixels[index] += count

    def _problem(
        self, kind: Any, message: str, key: str | None = None, extension: str | None = None, offset: int | None = None
    ) -> Problem:
        member = f"{key}.{extension}" if key and extension else None
        return Problem(
            kind=kind, file=self.entry.file, message=message, shard=self.number, key=key, member=member, offset=offset
        )


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
    offset = _first_difference(found, expected)
    line = expected[:offset].count(b"\n")
    key = known[line - 1].split(" ")[3].split(".")[0] if 1 <= line <= len(known) else None
    message = f"line {line + 1} is not what the tar says"
    return [Problem(kind="index", file=entry.index.file, message=message, shard=number, key=key, offset=offset)]


def _size_problem(file: str, size: int | None, expected: int, number: int) -> Problem:
    if size is None:
        return Problem(kind="missing", file=file, message="is missing", shard=number)
    message = f"has {size} bytes, the manifest says {expected}"
    return Problem(kind="size", file=file, message=message, shard=number, offset=min(size, expected))


def _first_difference(found: bytes, expected: bytes) -> int:
    length = min(len(found), len(expected))
    left, right = np.frombuffer(found[:length], np.uint8), np.frombuffer(expected[:length], np.uint8)
    different = np.flatnonzero(left != right)
    return int(different[0]) if len(different) else length


def _end(row: Any) -> int:
    return int(row["meta_offset"]) + padded(int(row["meta_length"]))


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as handle:
        return mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
