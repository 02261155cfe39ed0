"""Opening a finished shard set and reading its samples: constant time and memory, whatever the number of samples."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from zlib_ng import zlib_ng

from shards.errors import FormatError, SampleError, UsageError
from shards.format.keys import candidate_keys, shown
from shards.format.layout import MEMBERS, SPLITS, Rows, Split, key_hash, row_check
from shards.format.manifest import FileEntry, Manifest, SplitEntry, load_manifest
from shards.format.table import open_table, table_offset

TAR_BLOCK = 512
_NAME_BYTES = 100  # the name field of a tar header


@dataclass(frozen=True)
class ShardSet:
    """A shard set on disk; made by :meth:`open`.

    Attributes:
        path: the folder.
        manifest: what the set is.
    """

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> ShardSet:
        """Open a set: check the manifest, and that every file of it is there with its size.

        Raises:
            FormatError: no set, another version, damage, or a file that is missing or has another size.
        """
        folder = Path(path)
        manifest = load_manifest(folder)
        for entry in manifest.files():
            check_size(folder, entry)
        return cls(path=folder, manifest=manifest)

    def split(self, name: str) -> SplitReader:
        """Return the reader of one split.

        Raises:
            UsageError: the set has no such split.
        """
        if name not in self.manifest.splits:
            have = ", ".join(split for split in SPLITS if split in self.manifest.splits)
            raise UsageError(f"{self.path} has no split {name!r}; it has: {have}")
        return SplitReader(folder=self.path, name=name, manifest=self.manifest)


@dataclass(frozen=True)
class SplitReader:
    """The samples of one split, by index, in the order of the shards.

    Reads through memory maps; safe to use from several threads and to pickle into another process.
    """

    folder: Path
    name: Split
    manifest: Manifest
    _maps: dict[int, mmap.mmap] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return self.entry.samples

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "name": self.name, "manifest": self.manifest, "_maps": {}}

    @property
    def entry(self) -> SplitEntry:
        """The split's part of the manifest."""
        return self.manifest.splits[self.name]

    @cached_property
    def table(self) -> Rows:
        """The memory-mapped records of all samples, shape (n,), dtype :data:`shards.format.layout.SAMPLE_DTYPE`."""
        return open_table(self.folder / self.entry.table.file, samples=self.entry.samples)

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """The index of each shard's first sample, and the number of samples last, shape (shards + 1,)."""
        return np.cumsum([0, *(shard.samples for shard in self.entry.shards)], dtype=np.int64)

    def rows(self, indices: Any) -> Rows:
        """Return the records of some samples, each checked against its checksum.

        Args:
            indices: integers, shape (n,), in 0..len - 1.

        Raises:
            FormatError: a record is damaged.
        """
        rows = self.table[np.asarray(indices)]
        bad = np.flatnonzero((row_check(rows) != rows["check"]) | (rows["shard"] >= len(self.entry.shards)))
        if len(bad):
            index = int(np.asarray(indices)[bad[0]])
            table = self.folder / self.entry.table.file
            raise FormatError(
                f"{table} is damaged: the record of sample {index} (byte {table_offset(index)}) does not fit its "
                "checksum, or names a shard that is not there; run petseg-shard verify, then build the set again"
            )
        return np.asarray(rows)

    def shard_path(self, shard: int) -> Path:
        """Return the path of the tar with this number in the split."""
        return self.folder / self.entry.shards[shard].file

    def map(self, shard: int) -> mmap.mmap:
        """Return a read-only memory map of a whole tar; it stays open with this reader.

        When a tar is first mapped, the names in its first and last header are compared with the table, so that a tar
        or table that was put in another's place is noticed at once.

        Raises:
            FormatError: the file has vanished or changed its size since the set was opened, or is another shard's.
        """
        if shard not in self._maps:
            check_size(self.folder, self.entry.shards[shard])
            with self.shard_path(shard).open("rb") as handle:
                mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
            self._check_identity(shard, mapped)
            self._maps[shard] = mapped
        return self._maps[shard]

    def close(self) -> None:
        """Close the maps of tars, whose pages the system cannot drop while they are mapped; a read maps them again."""
        while self._maps:
            self._maps.popitem()[1].close()

    def read(self, index: int, role: str) -> bytes:
        """Return the bytes of one member (``image``, ``trimap`` or ``meta``) of a sample.

        Raises:
            SampleError: they are not there, or do not fit their checksum.
        """
        row = self.rows([self._check_index(index)])[0]
        start, length = int(row[f"{role}_offset"]), int(row[f"{role}_length"])
        data = self.map(int(row["shard"]))[start : start + length]
        if len(data) != length:
            raise SampleError(f"{self.place(index, role)}: the tar ends before the member does")
        if zlib_ng.crc32(data) != int(row[f"{role}_crc32"]):
            raise SampleError(f"{self.place(index, role)}: the bytes do not fit their checksum; build the set again")
        return data

    def key(self, index: int) -> str:
        """Return the key of a sample, read from the tar header before its picture.

        Raises:
            SampleError: no header of a fitting name stands there.
        """
        row = self.rows([self._check_index(index)])[0]
        shard = int(row["shard"])
        key, raw, header = self._key_at(row, self.map(shard))
        if key is None:
            path = self.shard_path(shard)
            raise SampleError(f"{path}: byte {header}: the tar header of sample {index} is damaged (name {raw!r})")
        return key

    def meta(self, index: int) -> Mapping[str, Any]:
        """Return ``KEY.json`` of a sample: key, name, breed, species, class_id, split, width, height."""
        data = self.read(index, "meta")
        try:
            document = json.loads(data)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise SampleError(f"{self.place(index, 'meta')}: not a JSON object")
        return document

    def find(self, name: str) -> int | None:
        """Return the index of the sample with this key or original name, or None.

        Scans the table's hashes, not the tars.
        """
        for key in candidate_keys(name):
            for index in np.flatnonzero(self.table["key_hash"] == np.uint64(key_hash(key))):
                found = int(index)
                if self.key(found) == key and (key == name or self.meta(found)["name"] == shown(name)):
                    return found
        return None

    def place(self, index: int, role: str) -> str:
        """Return where a member stands, for messages: shard, key, member and byte offset."""
        row = self.table[index]
        path = self.shard_path(int(row["shard"]))
        try:
            key = self.key(index)
        except (SampleError, FormatError):
            key = f"sample {index}"
        extension = dict(MEMBERS[self.manifest.storage])[role]
        return f"{path}: {key}.{extension} (sample {index} of {self.name}, byte {int(row[f'{role}_offset'])})"

    def _check_identity(self, shard: int, mapped: mmap.mmap) -> None:
        first, end = int(self.starts[shard]), int(self.starts[shard + 1])
        for index in {first, end - 1} if end > first else ():
            row = self.rows([index])[0]
            key, raw, header = self._key_at(row, mapped)
            if int(row["shard"]) != shard or key is None:
                raise FormatError(
                    f"{self.shard_path(shard)} does not fit {self.entry.table.file}: at byte {header} sample {index} "
                    f"should begin, and {raw[:40]!r} does; run petseg-shard verify, then build the set again"
                )

    def _key_at(self, row: Any, mapped: mmap.mmap) -> tuple[str | None, bytes, int]:
        """Return the key in the header before a picture (None if it is not the record's), the name, the offset."""
        header = int(row["image_offset"]) - TAR_BLOCK
        raw = mapped[header : header + _NAME_BYTES].split(b"\0", 1)[0]
        match = _member_pattern(MEMBERS[self.manifest.storage][0][1]).fullmatch(raw)
        key = match.group(1).decode() if match else ""
        return (key if key_hash(key) == int(row["key_hash"]) else None), raw, header

    def _check_index(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise UsageError(f"sample {index} is outside 0..{len(self) - 1} of split {self.name!r}")
        return index


def check_size(folder: Path, entry: FileEntry) -> None:
    """Raise ``FormatError`` unless the file is there with the size that the manifest states."""
    path = folder / entry.file
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise FormatError(f"{path} is missing; run petseg-shard verify, then build the set again") from None
    if size != entry.bytes:
        raise FormatError(f"{path} has {size} bytes, the manifest says {entry.bytes}; build the set again")


@lru_cache(maxsize=8)
def _member_pattern(extension: str) -> re.Pattern[bytes]:
    return re.compile(rb"([A-Za-z0-9_-]+)\." + re.escape(extension.encode()))
