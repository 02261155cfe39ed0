"""The ``.npy`` files of a set: a split's tables of samples and of shards, and the members of ``raw`` storage.

A table is an array of fixed-size records behind a header of fixed size. Its header is written and compared by hand,
not parsed: a damaged header cannot mislead a reader, and its bytes do not depend on the version of NumPy. They are
what ``numpy.save`` writes (a test checks this), and ``numpy.load`` reads them.
"""

import hashlib
import io
import math
import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from shards.errors import FormatError
from shards.format.layout import (
    HEADER_BYTES,
    SAMPLE_DTYPE,
    SHARD_DTYPE,
    Rows,
    Split,
    index_name,
    shard_name,
    table_offset,
)
from shards.format.manifest import FileEntry, SplitEntry
from shards.store.byte_ranges import ByteRanges, check_shortage, read_regular

IN_MEMORY: Final = 1 << 26  # bytes of the largest table that is read whole: 800,000 samples
_CHUNK = 1 << 16
_MOST: Final = 1 << 62  # of what a table of shards counts; sums stay below what 64 bits hold


def table_header(records: int, dtype: "np.dtype[Any]" = SAMPLE_DTYPE) -> bytes:
    """Return the header of a table: NumPy's format version 1.0, filled up with spaces to its :data:`HEADER_BYTES`."""
    length = HEADER_BYTES[dtype]
    description = f"{{'descr': {dtype.descr!r}, 'fortran_order': False, 'shape': ({records},), }}"
    prefix = b"\x93NUMPY\x01\x00" + struct.pack("<H", length - 10)
    return (prefix + description.encode("ascii")).ljust(length - 1) + b"\n"


class SampleTable:
    """The records of a split's samples: ``table[i]`` is one, ``table[indices]`` an array of them, unchecked.

    A table of at most :data:`IN_MEMORY` bytes is read when it is opened; of a larger one, records are read as they are
    asked for, so that a set of any number of samples opens at once. Either way, a file that is truncated or replaced
    underneath is an error at most. Thread-safe. A ``descriptor`` of the file, if given, belongs to this object.

    Raises ``FormatError`` if the file cannot be read or is not a table of ``samples`` samples.
    """

    def __init__(self, path: Path, *, samples: int, descriptor: int | None = None) -> None:
        self.path, self._samples = path, samples
        try:
            self._file = ByteRanges(path, descriptor=descriptor)
            header = table_header(samples)
            if self._file.read(0, len(header)) != header or len(self._file) != table_offset(samples):
                raise self._damage(f"expected {samples} records of {SAMPLE_DTYPE.itemsize} bytes")
        except OSError as error:
            check_shortage(error)
            raise FormatError(f"{path} cannot be read: {error.strerror}") from None
        self._records = self._read(0, samples) if len(self._file) <= IN_MEMORY else None
        if self._records is not None:
            self._file.close()

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, indices: Any) -> Any:
        """Return the record of an integer, or those of a slice without step or of integers, shape (n,)."""
        if self._records is not None:
            return self._records[indices]
        if isinstance(indices, slice):
            start, stop, _ = indices.indices(self._samples)
            return self._read(start, max(start, stop))
        wanted = np.asarray(indices)
        if wanted.ndim == 0:
            return self._read(int(wanted), int(wanted) + 1)[0]
        rows = np.empty(len(wanted), SAMPLE_DTYPE)
        starts = np.flatnonzero(np.diff(wanted, prepend=wanted[:1] - 2) != 1).tolist()  # of runs of neighbours
        for start, stop in zip(starts, [*starts, len(wanted)][1:], strict=True):
            rows[start:stop] = self._read(int(wanted[start]), int(wanted[start]) + stop - start)
        return rows

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return one field of all records, shape (n,)."""
        if self._records is not None:
            return np.asarray(self._records[name])
        found = np.empty(self._samples, SAMPLE_DTYPE[name])
        for start in range(0, self._samples, _CHUNK):
            found[start : start + _CHUNK] = self[start : start + _CHUNK][name]
        return found

    def _read(self, start: int, stop: int) -> Rows:
        if not 0 <= start <= stop <= self._samples:
            raise IndexError(f"samples {start} to {stop} are outside 0..{self._samples}")
        try:
            data = self._file.read(table_offset(start), (stop - start) * SAMPLE_DTYPE.itemsize)
        except OSError as error:
            check_shortage(error)
            raise FormatError(f"{self.path} cannot be read: {error.strerror}") from None
        if len(data) != (stop - start) * SAMPLE_DTYPE.itemsize:
            raise self._damage(f"it ends before the record of sample {start + len(data) // SAMPLE_DTYPE.itemsize}")
        return np.frombuffer(data, SAMPLE_DTYPE)

    def _damage(self, what: str) -> FormatError:
        return FormatError(f"{self.path} is damaged: {what}")


class ShardEntry(FileEntry, frozen=True):
    """A tar with its number of samples and its DALI index."""

    samples: int
    index: FileEntry


class ShardTable:
    """The shards of a split in order: ``table[i]`` is one, as a :class:`ShardEntry`; 88 bytes of memory for each.

    Attributes:
        samples: of each shard, int64 (shards,).
        bytes: of each tar, int64 (shards,).
    """

    def __init__(self, split: Split, records: Rows) -> None:
        self.split, self.records = split, records
        self.samples: npt.NDArray[np.int64] = records["samples"].astype(np.int64)
        self.bytes: npt.NDArray[np.int64] = records["bytes"].astype(np.int64)

    @classmethod
    def open(cls, path: Path, split: Split, entry: SplitEntry) -> Self:
        """Read and check the table of a split, the file ``path``, that the manifest describes by ``entry``.

        Raises ``FormatError`` if it cannot be read, is not the file that the manifest describes, or contradicts it.
        """
        try:
            data = read_regular(path)
        except OSError as error:
            check_shortage(error)
            raise FormatError(f"{path} cannot be read: {error.strerror}") from None
        return cls.parse(data, path, split, entry)

    @classmethod
    def parse(cls, data: bytes, path: Path, split: Split, entry: SplitEntry, *, checked: bool = True) -> Self:
        """Check the bytes of a table; ``path`` is only for messages. Raises ``FormatError`` like :meth:`open`.

        Without ``checked``, neither the SHA-256 nor the sums over the shards are compared with the manifest.
        """
        header = table_header(entry.shards, SHARD_DTYPE)
        if len(data) != table_offset(entry.shards, SHARD_DTYPE) or not data.startswith(header):
            raise FormatError(f"{path} is damaged: it is not a table of {entry.shards} shards; build the set again")
        records = np.frombuffer(data, SHARD_DTYPE, offset=len(header))
        if any((records[name] > np.uint64(_MOST)).any() for name in ("samples", "bytes", "index_bytes")):
            raise FormatError(f"{path} is damaged: it names a shard of more than {_MOST} samples or bytes")
        if checked:
            if hashlib.sha256(data).hexdigest() != entry.shard_table.sha256:
                raise FormatError(
                    f"{path} is damaged: its SHA-256 is not the manifest's; run petseg-shard verify, then build the "
                    "set again"
                )
            samples, tars, indices = (sum(records[name].tolist()) for name in ("samples", "bytes", "index_bytes"))
            if (samples, tars + indices) != (entry.samples, entry.bytes):
                raise FormatError(
                    f"{path}: the shards of {split!r} add up to {samples} samples and {tars + indices} bytes, the "
                    f"manifest says {entry.samples} and {entry.bytes}; build the set again"
                )
        return cls(split, records)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, number: int) -> ShardEntry:
        record = self.records[number]
        number %= len(self.records)
        index = FileEntry(
            file=index_name(self.split, number),
            bytes=int(record["index_bytes"]),
            sha256=record["index_sha256"].tobytes().hex(),
        )
        return ShardEntry(
            file=shard_name(self.split, number),
            bytes=int(record["bytes"]),
            sha256=record["sha256"].tobytes().hex(),
            samples=int(record["samples"]),
            index=index,
        )

    def __iter__(self) -> Iterator[ShardEntry]:
        return (self[number] for number in range(len(self)))


def shard_table_bytes(shards: Iterable[ShardEntry]) -> bytes:
    """Return the content of a split's table of shards; the file names of the shards are not part of it."""
    records = np.array(
        [
            (
                shard.samples,
                shard.bytes,
                shard.index.bytes,
                np.frombuffer(bytes.fromhex(shard.sha256), np.uint8),
                np.frombuffer(bytes.fromhex(shard.index.sha256), np.uint8),
            )
            for shard in shards
        ],
        SHARD_DTYPE,
    )
    return table_header(len(records), SHARD_DTYPE) + records.tobytes()


@lru_cache(maxsize=8)
def npy_header(shape: tuple[int, ...]) -> bytes:
    """Return the header of a ``.npy`` file (version 1.0) of uint8 values in C order with this shape."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def npy_values(data: bytes, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Return the values of a member of ``raw`` storage, a view; ``ValueError`` unless it is the file of a shape.

    Not by ``np.load``, which reads other files too, and raises errors of many types for damaged ones.
    """
    start = len(head := npy_header(shape))
    if not data.startswith(head) or len(data) != start + math.prod(shape):
        raise ValueError(f"it is no .npy file of uint8 {shape}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
