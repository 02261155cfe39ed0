"""The ``.npy`` files of a set: a split's table of samples, and the members of ``raw`` storage.

A table is an array of fixed-size records behind a header of fixed size. Its header is written and compared by hand,
not parsed: a damaged header cannot mislead a reader, and its bytes do not depend on the version of NumPy. They are
what ``numpy.save`` writes (a test checks this), and ``numpy.load`` reads them.
"""

import io
import struct
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np

from shards.errors import FormatError
from shards.format.layout import SAMPLE_DTYPE, Rows

HEADER_BYTES: Final = 448  # what NumPy writes: a multiple of 64, with room for any number of samples
_PREFIX: Final = b"\x93NUMPY\x01\x00" + struct.pack("<H", HEADER_BYTES - 10)


def table_header(samples: int) -> bytes:
    """Return the header of a table: NumPy's format version 1.0, filled up with spaces to :data:`HEADER_BYTES`."""
    description = f"{{'descr': {SAMPLE_DTYPE.descr!r}, 'fortran_order': False, 'shape': ({samples},), }}"
    return (_PREFIX + description.encode("ascii")).ljust(HEADER_BYTES - 1) + b"\n"


def table_offset(index: int) -> int:
    """Return the byte at which a sample's record starts in its table file."""
    return HEADER_BYTES + index * SAMPLE_DTYPE.itemsize


def open_table(path: Path, *, samples: int) -> Rows:
    """Memory-map a table; raise ``FormatError`` if it cannot be read or is not a table of ``samples`` samples."""
    try:
        with path.open("rb") as handle:
            header = handle.read(HEADER_BYTES)
        if header != table_header(samples) or path.stat().st_size != table_offset(samples):
            raise FormatError(f"{path} is damaged: expected {samples} records of {SAMPLE_DTYPE.itemsize} bytes")
        return np.asarray(np.memmap(path, SAMPLE_DTYPE, mode="r", offset=HEADER_BYTES, shape=(samples,)))
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}") from None


@lru_cache(maxsize=8)
def npy_header(shape: tuple[int, ...]) -> bytes:
    """Return the header of a ``.npy`` file (version 1.0) of uint8 values in C order with this shape."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue()
