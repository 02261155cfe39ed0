"""Checking the samples of one tar: every byte of it is compared with the table, the manifest or a fixed value."""

from __future__ import annotations

import json
import mmap
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from zlib_ng import zlib_ng

from shards.audit.findings import RejectedError
from shards.format.layout import MEMBERS, SPECIES, TAR_BLOCK, Rows, Split, member_span, row_check
from shards.format.manifest import Manifest, ShardEntry
from shards.format.tar import END, header, image_header, index_line, padded
from shards.verify.decode import check_stored
from shards.verify.problems import Kind, Problem


@dataclass
class ShardCheck:
    """What was found in a shard, and the sums over its samples."""

    split: Split
    problems: list[Problem] = field(default_factory=list)
    breeds: Counter[str] = field(default_factory=Counter)
    species: Counter[str] = field(default_factory=Counter)
    class_pixels: list[int] = field(default_factory=lambda: [0, 0, 0])


@dataclass
class TarChecker:
    """Checks a tar sample by sample; adds sums to ``check`` and the index line of each sample to ``lines``."""

    tar: mmap.mmap
    manifest: Manifest
    entry: ShardEntry
    number: int
    check: ShardCheck
    decode: bool = False
    lines: list[str] = field(default_factory=list)

    def samples(self, rows: Rows) -> Iterator[Problem]:
        """Check all samples and the bytes between and after them."""
        intact = row_check(rows) == rows["check"]
        position: int | None = 0  # where the sample should start; None if unknown
        for index, row in enumerate(rows):
            if intact[index] and int(row["shard"]) == self.number and self._is_at(row, position):
                yield from self._sample(index, row)
                offset, length = member_span(row, "meta")
                position = offset + padded(length)
            else:
                if intact[index]:
                    message = f"record {index} of the shard does not point to the place of the sample"
                    yield self._problem("table", message, offset=position)
                position = None
        if position is not None and self.tar[position:] != END:
            yield self._problem("padding", "the tar does not end with two empty blocks", offset=position)

    def headers(self, row: Any) -> Iterator[Problem]:
        """Check a record and the headers of its members, not their contents."""
        if row_check(np.array([row]))[0] != row["check"] or not self._is_at(row, None):
            yield self._problem("table", "a record is damaged or points outside the tar")
            return
        key = yield from self._key(row)
        if key is not None:
            yield from self._headers(row, key)

    def _sample(self, index: int, row: Any) -> Iterator[Problem]:
        key = yield from self._key(row)
        if key is None:
            yield from self._contents(row, None)
            return
        self.lines.append(index_line(key, list(self._members(row))))
        yield from self._headers(row, key)
        damaged = list(self._contents(row, key))
        yield from damaged
        if damaged:
            return
        yield from self._meta(row, key)
        raw = self.manifest.raw
        if raw is not None and int(row["image_offset"]) - TAR_BLOCK != index * raw.stride:
            message = f"the sample does not start at {index} x {raw.stride} bytes"
            yield self._problem("table", message, key, offset=int(row["image_offset"]))
        if self.decode:
            yield from self._decoded(row, key)

    def _members(self, row: Any) -> Iterator[tuple[str, int, int]]:
        """Yield (extension, offset, length) of each member."""
        for role, extension in MEMBERS[self.manifest.storage]:
            yield extension, *member_span(row, role)

    def _is_at(self, row: Any, position: int | None) -> bool:
        """Return whether the members follow each other from ``position`` (None: anywhere) on, inside the tar."""
        start = int(row["image_offset"]) - TAR_BLOCK if position is None else position
        for _, offset, length in self._members(row):
            if offset != start + TAR_BLOCK:
                return False
            start = offset + padded(length)
        return 0 <= start <= len(self.tar) - len(END)

    def _key(self, row: Any) -> Generator[Problem, None, str | None]:
        """Return the key in the first header, or yield a problem and return None if it is not the record's."""
        offset = int(row["image_offset"]) - TAR_BLOCK
        name, key = image_header(self.tar, offset, storage=self.manifest.storage, hashed=int(row["key_hash"]))
        if key is None:
            yield self._problem("header", f"the name {name!r} is not that of the sample", offset=offset)
        return key

    def _headers(self, row: Any, key: str) -> Iterator[Problem]:
        for extension, at, length in self._members(row):
            found, expected = self.tar[at - TAR_BLOCK : at], header(f"{key}.{extension}", length)
            if found != expected:
                offset = at - TAR_BLOCK + first_difference(found, expected)
                yield self._problem("header", "the tar header is damaged", key, extension, offset)

    def _contents(self, row: Any, key: str | None) -> Iterator[Problem]:
        for role, extension in MEMBERS[self.manifest.storage]:
            at, length = member_span(row, role)
            end = at + length
            with memoryview(self.tar) as view, view[at:end] as content:
                crc = zlib_ng.crc32(content)
            if crc != int(row[f"{role}_crc32"]):
                yield self._problem("member", "the content does not match its CRC-32", key, extension, at)
            if any(self.tar[end : at + padded(length)]):
                yield self._problem("padding", "bytes after the member are not zero", key, extension, end)

    def _meta(self, row: Any, key: str) -> Iterator[Problem]:
        at, length = member_span(row, "meta")
        try:
            document = json.loads(self.tar[at : at + length])
            self.check.breeds[str(document["breed"])] += 1
            self.check.species[str(document["species"])] += 1
            expected = {
                "key": key,
                "split": self.check.split,
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

    def _decoded(self, row: Any, key: str) -> Iterator[Problem]:
        (image_at, image_length), (mask_at, mask_length) = member_span(row, "image"), member_span(row, "trimap")
        try:
            pixels = check_stored(
                self.tar[image_at : image_at + image_length],
                self.tar[mask_at : mask_at + mask_length],
                storage=self.manifest.storage,
                size=self.manifest.size,
                original=(int(row["width"]), int(row["height"])),
            )
        except RejectedError as error:
            role = "trimap" if error.reason.startswith("trimap") else "image"
            extension = dict(MEMBERS[self.manifest.storage])[role]
            message = f"{error.reason}: {error.detail}" if error.detail else error.reason
            yield self._problem("decode", message, key, extension, member_span(row, role)[0])
            return
        for index, count in enumerate(pixels):
            self.check.class_pixels[index] += count

    def _problem(
        self, kind: Kind, message: str, key: str | None = None, extension: str | None = None, offset: int | None = None
    ) -> Problem:
        member = f"{key}.{extension}" if key and extension else None
        return Problem(
            kind=kind, file=self.entry.file, message=message, shard=self.number, key=key, member=member, offset=offset
        )


def first_difference(found: bytes, expected: bytes) -> int:
    """Return the first byte at which two byte strings differ, or the length of the shorter one."""
    length = min(len(found), len(expected))
    different = np.flatnonzero(np.frombuffer(found, np.uint8, length) != np.frombuffer(expected, np.uint8, length))
    return int(different[0]) if len(different) else length
