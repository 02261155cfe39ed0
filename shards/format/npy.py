"""The ``.npy`` files of a set: a split's table of samples, and the members of ``raw`` storage.

A table is an array of fixed-size records behind a header of fixed size. Its header is written and compared by hand,
not parsed: a damaged header cannot mislead a reader, and its bytes do not depend on the version of NumPy. They are
what ``numpy.save`` writes (a test checks this), and ``numpy.load`` reads them.
"""

import io
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shards.errors import FormatError
from shards.format.layout import SAMPLE_DTYPE, Rows
from shards.store.byte_ranges import ByteRanges

IN_MEMORY: Final = 1 << 26  # bytes of the largest table that is read whole: 800,000 samples
_CHUNK = 1 << 16
HEADER_BYTES: Final = 448  # what NumPy writes: a multiple of 64, with room for any number of samples
_PREFIX: Final = b"\x93NUMPY\x01\x00" + struct.pack("<H", HEADER_BYTES - 10)


def table_header(samples: int) -> bytes:
    """Return the header of a table: NumPy's format version 1.0, filled up with spaces to :data:`HEADER_BYTES`."""
    description = f"{{'descr': {SAMPLE_DTYPE.descr!r}, 'fortran_order': False, 'shape': ({samples},), }}"
    return (_PREFIX + description.encode("ascii")).ljust(HEADER_BYTES - 1) + b"\n"


def table_offset(index: int) -> int:
    """Return the byte at which a sample's record starts in its table file."""
    return HEADER_BYTES + index * SAMPLE_DTYPE.itemsize


class SampleTable:
    """The records of a split's samples: ``table[i]`` is one, ``table[indices]`` an array of them, unchecked.

    A table of at most :data:`IN_MEMORY` bytes is read when it is opened; of a larger one, records are read as they are
    asked for, so that a set of any number of samples opens at once. Either way, a file that is truncated or replaced
    underneath is an error at most. Thread-safe.

    Raises ``FormatError`` if the file cannot be read or is not a table of ``samples`` samples.
    """

    def __init__(self, path: Path, *, samples: int) -> None:
        self.path, self._samples = path, samples
        try:
            self._file = ByteRanges(path)
            if self._file.read(0, HEADER_BYTES) != table_header(samples) or len(self._file) != table_offset(samples):
                raise self._damage(f"expected {samples} records of {SAMPLE_DTYPE.itemsize} bytes")
        except OSError as error:
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
            raise FormatError(f"{self.path} cannot be read: {error.strerror}") from None
        if len(data) != (stop - start) * SAMPLE_DTYPE.itemsize:
            raise self._damage(f"it ends before the record of sample {start + len(data) // SAMPLE_DTYPE.itemsize}")
        return np.frombuffer(data, SAMPLE_DTYPE)

    def _damage(self, what: str) -> FormatError:
        return FormatError(f"{self.path} is damaged: {what}")


@lru_cache(maxsize=8)
def npy_header(shape: tuple[int, ...]) -> bytes:
    """Return the header of a ``.npy`` file (version 1.0) of uint8 values in C order with this shape."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue()
