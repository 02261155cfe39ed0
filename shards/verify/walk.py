"""Going through one tar sample by sample, so closely that every bit of it is compared with something."""

from __future__ import annotations

import json
import mmap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from zlib_ng import zlib_ng

from shards.audit.findings import RejectedError
from shards.format.layout import MEMBERS, SPECIES, Rows, Split, key_hash, row_check
from shards.format.manifest import Manifest, ShardEntry
from shards.format.tar import BLOCK, END, header, index_line, padded
from shards.verify.decode import check_stored
from shards.verify.problems import MAX_PER_FILE, Problem

_NAME_BYTES = 100


@dataclass
class ShardCheck:
    """What was found in a shard, and what its samples add up to."""

    problems: list[Problem] = field(default_factory=list)
    breeds: Counter[str] = field(default_factory=Counter)
    species: Counter[str] = field(default_factory=Counter)
    class_pixels: list[int] = field(default_factory=lambda: [0, 0, 0])


@dataclass
class Walker:
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
                offset = at - BLOCK + first_difference(found, expected)
                yield self._problem("header", "the tar header is damaged", key, extension, offset)

    def _contents(self, row: Any, key: str | None) -> Iterator[Problem]:
        for role, extension in MEMBERS[self.manifest.storage]:
            at, length = int(row[f"{role}_offset"]), int(row[f"{role}_length"])
            with memoryview(self.tar) as view, view[at : at + length] as content:
                crc = zlib_ng.crc32(content)
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


def first_difference(found: bytes, expected: bytes) -> int:
    """Return the first byte at which two texts differ, or the shorter one's length."""
    length = min(len(found), len(expected))
    left, right = np.frombuffer(found[:length], np.uint8), np.frombuffer(expected[:length], np.uint8)
    different = np.flatnonzero(left != right)
    return int(different[0]) if len(different) else length


def _end(row: Any) -> int:
    return int(row["meta_offset"]) + padded(int(row["meta_length"]))
