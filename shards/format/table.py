"""A split's table of samples: a ``.npy`` file of fixed-size records behind a header of fixed size.

The header is written and compared by hand, not parsed: a damaged one cannot confuse anybody, and its bytes do not
depend on the version of NumPy. They are what ``numpy.save`` writes (a test says so), and ``numpy.load`` reads them.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

import numpy as np

from shards.errors import FormatError
from shards.format.layout import SAMPLE_DTYPE, Rows

HEADER_BYTES: Final = 448  # what NumPy leaves: a multiple of 64, with room for any number of samples
_PREFIX: Final = b"\x93NUMPY\x01\x00" + struct.pack("<H", HEADER_BYTES - 10)


def table_header(samples: int) -> bytes:
    """Return the header of a table: NumPy's format version 1.0, filled up with spaces to :data:`HEADER_BYTES`."""
    description = f"{{'descr': {SAMPLE_DTYPE.descr!r}, 'fortran_order': False, 'shape': ({samples},), }}"
    return (_PREFIX + description.encode("ascii")).ljust(HEADER_BYTES - 1) + b"\n"


def open_table(path: Path, *, samples: int) -> Rows:
    """Memory-map a split's table of samples.

    Raises:
        FormatError: it cannot be read, is no table, or not one of ``samples`` samples.
    """
    expected = HEADER_BYTES + samples * SAMPLE_DTYPE.itemsize
    try:
        with path.open("rb") as handle:
            header = handle.read(HEADER_BYTES)
        size = path.stat().st_size
        if header != table_header(samples) or size != expected:
            raise FormatError(f"{path} is damaged: expected {samples} records of {SAMPLE_DTYPE.itemsize} bytes")
        return np.asarray(np.memmap(path, SAMPLE_DTYPE, mode="r", offset=HEADER_BYTES, shape=(samples,)))
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}") from None


def table_offset(index: int) -> int:
    """Return the byte at which a sample's record begins in its table file."""
    return HEADER_BYTES + index * SAMPLE_DTYPE.itemsize
