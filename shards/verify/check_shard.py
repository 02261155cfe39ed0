"""Checking one shard: every byte of its tar and index is compared with the table, the manifest or a fixed value."""

import json
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from zlib_ng import zlib_ng

from shards.audit.findings import RejectedError
from shards.audit.image_mask_pair import audit_pair
from shards.audit.mask import Counts, map_values
from shards.errors import PetsegError
from shards.format.geometry import Size, size_text
from shards.format.labels import IGNORE, UNTINTED, LabelClass, Labels
from shards.format.layout import (
    IMAGE_FORMATS,
    MOST_MEMBER,
    MOST_PIXELS,
    STORED_FORMATS,
    TAR_BLOCK,
    Rows,
    Split,
    extensions_of,
    member_span,
    row_check,
)
from shards.format.manifest import Manifest
from shards.format.npy import SampleTable, ShardEntry, npy_header
from shards.format.tar import END, INDEX_VERSION, header, image_header, index_line, index_text, padded
from shards.store.byte_ranges import ByteRanges, check_shortage
from shards.verify.check_file import check_file, first_difference
from shards.verify.locate import wrong_byte
from shards.verify.problems import MAX_PER_FILE, Kind, Mode, Problem

MAX_LOCATED = 3  # damaged members of a shard in which the wrong byte is looked for


@dataclass
class ShardCheck:
    """The check of one shard: call :meth:`run`, then read the problems and the sums over its samples."""

    folder: Path
    manifest: Manifest
    split: Split
    number: int  # of the shard in the split
    entry: ShardEntry
    table: SampleTable | None  # of the split; None if it is unusable
    first: int  # the index of the shard's first sample
    rows: Rows | None = None  # the records of its samples, while they are checked
    intact: int = 0  # how many of its samples were read and have no problem
    largest: Size = (0, 0)  # height and width of its source images, pixels
    area: int = 0  # of its source images, pixels
    problems: list[Problem] = field(default_factory=list)
    attributes: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    pixels: Counts = field(default_factory=lambda: np.zeros(256, np.int64))  # of its masks, of each index
    _lines: list[str] = field(default_factory=list)  # of the index, one per sample

    def run(self, mode: Mode) -> Self:
        """Check sizes and structure (``quick``), every byte too (``default``), or decode as well (``full``)."""
        try:
            if self.table is not None:
                self.rows = self.table[self.first : self.first + self.entry.samples]
                if len(self.rows):
                    heights, widths = (self.rows[side].astype(np.int64) for side in ("height", "width"))
                    self.largest, self.area = (int(heights.max()), int(widths.max())), int((heights * widths).sum())
            for file in (self.entry, self.entry.index):
                self.problems += check_file(self.folder, file, quick=True, shard=self.number)
            if mode == "quick":
                self._check_structure()
            else:
                self._check_contents(decode=mode == "full")
        except Exception as error:
            if isinstance(error, OSError):
                check_shortage(error)
            if type(error) is PetsegError:  # no file is damaged
                raise
            self._problem("missing", f"cannot be checked: {type(error).__name__}: {error}")
        finally:
            self.rows = None
        return self

    def _check_structure(self) -> None:
        """Check the first and last record and header, the tar's end and the index's first line."""
        if self.problems or self.rows is None:
            return
        with (self.folder / self.entry.index.file).open("rb") as handle:
            first = handle.readline(64)
        if first != f"{INDEX_VERSION} {self.entry.samples}\n".encode():
            self._problem("index", f"the first line is {first!r}", file=self.entry.index.file, offset=0)
        with ByteRanges(self.folder / self.entry.file) as tar:
            if tar[-len(END) :] != END:
                self._problem("padding", "the tar does not end with two empty blocks", offset=len(tar) - len(END))
            for index in sorted({0, self.entry.samples - 1}):
                row = self.rows[index]
                if row_check(np.array([row]))[0] != row["check"] or not self._is_at(tar, row, None):
                    self._problem("table", "a record is damaged or points outside the tar")
                elif key := self._key(tar, row):
                    self._check_members(tar, row, key, contents=False)

    def _check_contents(self, *, decode: bool) -> None:
        path = self.folder / self.entry.file
        if self.rows is not None and path.is_file() and path.stat().st_size:
            with ByteRanges(path) as tar:
                self._check_samples(tar, self.rows, decode=decode)
            if len(self._lines) == len(self.rows):  # otherwise the tar is damaged
                self._check_index()
        for file in (self.entry, self.entry.index):
            if not any(problem.file == file.file for problem in self.problems):
                self.problems += check_file(self.folder, file, quick=False, shard=self.number)

    def _check_samples(self, tar: ByteRanges, rows: Rows, *, decode: bool) -> None:
        """Check all samples and the bytes between and after them."""
        intact = row_check(rows) == rows["check"]
        position: int | None = 0  # where the sample should start; None if unknown
        for index, row in enumerate(rows):
            if intact[index] and int(row["shard"]) == self.number and self._is_at(tar, row, position):
                self._check_sample(tar, index, row, decode=decode)
                offset, length = member_span(row, "meta")
                position = offset + padded(length)
            else:
                if intact[index]:
                    message = f"record {index} of the shard does not point to the place of the sample"
                    self._problem("table", message, offset=position)
                position = None
            if len(self.problems) > 10 * MAX_PER_FILE:
                return
        if position is not None and (end := tar[position : position + len(END) + 1]) != END:
            place = position + first_difference(end, END)
            self._problem("padding", "the tar does not end with two empty blocks", offset=place)

    def _check_sample(self, tar: ByteRanges, index: int, row: Any, *, decode: bool) -> None:
        before = len(self.problems)
        key = self._key(tar, row)
        self._check_members(tar, row, key)
        if key is None:
            return
        members = [(extension, *member_span(row, role)) for role, extension in extensions_of(row).items()]
        self._lines.append(index_line(key, members))
        if len(self.problems) > before:
            return
        self.intact += 1
        self._check_meta(tar, row, key)
        raw = self.manifest.raw
        if raw is not None and int(row["image_offset"]) - TAR_BLOCK != index * raw.stride:
            message = f"the sample does not start at {index} x {raw.stride} bytes"
            self._problem("table", message, key, offset=int(row["image_offset"]))
        if raw is not None and self.manifest.size is not None:  # it has to be where the others of a stride are
            mask = int(row["mask_offset"]) + len(npy_header(self.manifest.size)) - index * raw.stride
            if mask != raw.mask_offset:
                message = f"the mask's pixels are at {mask}, mask_offset in the manifest says {raw.mask_offset}"
                self._problem("table", message, key, offset=int(row["mask_offset"]))
        if decode:
            self._decode(tar, row, key)

    def _is_at(self, tar: ByteRanges, row: Any, position: int | None) -> bool:
        """Return whether the members follow each other from ``position`` (None: anywhere) on, inside the tar."""
        number = int(row["image_format"])
        if number >= len(IMAGE_FORMATS) or IMAGE_FORMATS[number] not in STORED_FORMATS[self.manifest.storage]:
            return False
        start = int(row["image_offset"]) - TAR_BLOCK if position is None else position
        for role in extensions_of(row):
            offset, length = member_span(row, role)
            if offset != start + TAR_BLOCK or length > MOST_MEMBER[role]:
                return False
            start = offset + padded(length)
        return 0 <= start <= len(tar) - len(END)

    def _key(self, tar: ByteRanges, row: Any) -> str | None:
        """Return the key in the first header; None (and a problem) if it is not the record's."""
        offset, name, key = image_header(tar, row)
        if key is None:
            self._problem("header", f"the name {name!r} is not that of the sample", offset=offset)
        return key

    def _check_members(self, tar: ByteRanges, row: Any, key: str | None, *, contents: bool = True) -> None:
        """Check the headers (if the key is known), the contents and the padding of a sample's members."""
        for role, extension in extensions_of(row).items():
            at, length = member_span(row, role)
            end = at + length
            if key is not None:
                found, expected = tar[at - TAR_BLOCK : at], header(f"{key}.{extension}", length)
                if found != expected:
                    offset = at - TAR_BLOCK + first_difference(found, expected)
                    self._problem("header", "the tar header is damaged", key, extension, offset=offset)
            if not contents:
                continue
            content, expected_crc = tar[at:end], int(row[f"{role}_crc32"])
            if (found_crc := zlib_ng.crc32(content)) != expected_crc:
                self._damaged_member(content, (found_crc, expected_crc), key, extension, offset=at)
            if any(padding := tar[end : at + padded(length)]):
                place = end + first_difference(padding, bytes(len(padding)))
                self._problem("padding", "bytes after the member are not zero", key, extension, offset=place)

    def _damaged_member(
        self, content: bytes, sums: tuple[int, int], key: str | None, extension: str, *, offset: int
    ) -> None:
        """Add a problem: where the one wrong byte is, or, if there are more, in which bytes they are."""
        message = "the content does not match its CRC-32"
        few = len(self.problems) < MAX_LOCATED  # finding the byte takes a second for some megabytes
        place = wrong_byte(content, found=sums[0], expected=sums[1]) if few else None
        if place is None:
            message += f" (bytes {offset} to {offset + len(content) - 1})"
        else:
            message += f": this byte is {content[place[0]]:#04x} and was {place[1]:#04x}, unless several are wrong"
            offset += place[0]
        self._problem("member", message, key, extension, offset=offset)

    def _check_meta(self, tar: ByteRanges, row: Any, key: str) -> None:
        at, length = member_span(row, "meta")
        try:
            document = json.loads(tar[at : at + length])
            for attribute in self.manifest.splits[self.split].attributes:
                if attribute in document:
                    self.attributes[attribute][str(document[attribute])] += 1
            expected: dict[str, object] = {name: int(row[name]) for name in ("width", "height")}
            expected |= {"key": key, "split": self.split}
            wrong = [name for name, value in expected.items() if document[name] != value]
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            self._problem("meta", f"cannot be read: {error}", key, "json", offset=at)
            return
        if wrong:
            self._problem("meta", f"contradicts the table in {', '.join(wrong)}", key, "json", offset=at)

    def _decode(self, tar: ByteRanges, row: Any, key: str) -> None:
        spans = [member_span(row, role) for role in ("image", "mask")]
        image, mask = (tar[offset : offset + length] for offset, length in spans)
        try:
            self.pixels += check_stored(image, mask, row=row, manifest=self.manifest)
        except RejectedError as error:
            role = "mask" if error.reason.startswith("mask") else "image"
            message = f"{error.reason}: {error.detail}" if error.detail else error.reason
            extension, offset = extensions_of(row)[role], member_span(row, role)[0]
            self._problem("decode", message, key, extension, offset=offset)

    def _check_index(self) -> None:
        """Compare the index with the one that the tar should have."""
        path = self.folder / self.entry.index.file
        if not path.is_file():
            return
        expected = index_text(self._lines).encode("ascii")
        with ByteRanges(path) as index:
            found = index.read(0, len(expected) + 1)
        if found != expected:
            offset = first_difference(found, expected)
            line = expected[:offset].count(b"\n")
            key = self._lines[line - 1].split(" ")[3].split(".")[0] if 1 <= line <= len(self._lines) else None
            self._problem("index", f"line {line + 1} does not match the tar", key, offset=offset, file=path.name)

    def _problem(
        self, kind: Kind, message: str, key: str | None = None, extension: str | None = None, **place: Any
    ) -> None:
        """Add a problem; ``place`` has its ``offset``, and its ``file`` if that is not the tar."""
        member = f"{key}.{extension}" if key and extension else None
        place = {"file": self.entry.file, "shard": self.number, "key": key, "member": member, **place}
        self.problems.append(Problem(kind=kind, message=message, **place))


def check_stored(image: bytes, mask: bytes, *, row: Any, manifest: Manifest) -> Counts:
    """Decode a stored sample completely and return the mask's pixels of each index 0..255, int64 (256,).

    ``row`` is its record. Raises ``RejectedError`` if something does not decode, has a wrong size, or is not canonical.
    """
    canonical = _canonical(len(manifest.labels))
    if manifest.storage == "raw" and manifest.size is not None:
        for what, data, shape in (("image", image, (*manifest.size, 3)), ("mask", mask, manifest.size)):
            header_bytes = npy_header(shape)
            if not data.startswith(header_bytes) or len(data) != len(header_bytes) + math.prod(shape):
                raise RejectedError(f"{what}-corrupt", f"not a .npy file of uint8 {shape}")
        indices = np.frombuffer(mask, np.uint8)[-math.prod(manifest.size) :].reshape(manifest.size)
        return map_values(indices, canonical)[1]
    pair = audit_pair(image, mask, labels=canonical, pixels=False, max_pixels=MOST_PIXELS)
    if pair.image.format != IMAGE_FORMATS[int(row["image_format"])]:
        raise RejectedError("image-unknown-format", f"the image is a {pair.image.format}, its name says otherwise")
    for finding in pair.findings:
        if finding.action == "repaired":  # what is packed must need no repair
            raise RejectedError(finding.reason, finding.detail)
    expected = manifest.size or (int(row["height"]), int(row["width"]))
    if pair.mask.size[::-1] != expected:
        raise RejectedError(
            "size-mismatch", f"{size_text(pair.mask.size[::-1])} pixels, expected {size_text(expected)}"
        )
    return pair.mask.counts


@lru_cache(maxsize=1)
def _canonical(classes: int) -> Labels:
    """Return labels under which a set's own masks are audited: the values are the indices."""
    names = (LabelClass(name=str(index), color=UNTINTED, values=(index,)) for index in range(classes))
    return Labels(classes=tuple(names), ignore=(IGNORE,))
