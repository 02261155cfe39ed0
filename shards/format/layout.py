"""The constants of a shard set: names, values, the record of one sample. See docs/formats.md.

Everything here is part of the format: a change is a new :data:`VERSION`.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

FORMAT: Final = "petseg-shards"
VERSION: Final = 1

Split: TypeAlias = Literal["train", "val", "test"]
SPLITS: Final[tuple[Split, ...]] = get_args(Split)

Storage: TypeAlias = Literal["source", "jpeg", "raw"]
STORAGES: Final[tuple[Storage, ...]] = get_args(Storage)

# Class order is channel order: trimap value v stands in channel v - 1.
CLASSES: Final = ("animal", "background", "border")
TRIMAP_VALUES: Final = (1, 2, 3)

MANIFEST_NAME: Final = "manifest.json"
QUARANTINE_NAME: Final = "quarantine.jsonl"

# The members of a sample, in tar order, by storage: (role, extension).
MEMBERS: Final[dict[Storage, tuple[tuple[str, str], ...]]] = {
    "source": (("image", "jpg"), ("trimap", "trimap.png"), ("meta", "json")),
    "jpeg": (("image", "jpg"), ("trimap", "trimap.png"), ("meta", "json")),
    "raw": (("image", "image.npy"), ("trimap", "trimap.npy"), ("meta", "json")),
}
ROLES: Final = ("image", "trimap", "meta")
MAX_SIZE: Final = 4096  # of stored pictures, pixels a side, in `jpeg` and `raw` storage
MAX_KEY_LENGTH: Final = 80  # the longest member name stays under the 100 bytes of a plain tar header

SPECIES: Final = ("unknown", "cat", "dog")  # the number is the dataset's own: 1 cat, 2 dog

# One sample, 80 bytes, little endian. Offsets are those of a member's first byte in its tar (its header stands
# 512 bytes before), lengths are in bytes, CRCs are zlib's over the member's bytes. `check` covers the other 72.
SAMPLE_DTYPE: Final = np.dtype(
    [
        ("shard", "<u4"),
        ("class_id", "<u2"),  # 1..37 in the official dataset, 0 unknown
        ("species", "<u2"),  # index into SPECIES
        ("image_offset", "<u8"),
        ("trimap_offset", "<u8"),
        ("meta_offset", "<u8"),
        ("image_length", "<u4"),
        ("trimap_length", "<u4"),
        ("meta_length", "<u4"),
        ("image_crc32", "<u4"),
        ("trimap_crc32", "<u4"),
        ("meta_crc32", "<u4"),
        ("width", "<u4"),  # of the picture in the source, pixels
        ("height", "<u4"),
        ("key_hash", "<u8"),
        ("check", "<u8"),
    ]
)
assert SAMPLE_DTYPE.itemsize == 80

_CHECKED_WORDS = 9
# Odd multipliers make the sum change with any single flipped bit: 2^k times an odd number is not 0 mod 2^64.
_MULTIPLIERS = np.array(
    [
        int.from_bytes(hashlib.sha256(f"petseg-shards row {i}".encode()).digest()[:8], "little") | 1
        for i in range(_CHECKED_WORDS)
    ],
    dtype=np.uint64,
)

Rows: TypeAlias = npt.NDArray[Any]


def row_check(rows: Rows) -> npt.NDArray[np.uint64]:
    """Return the value that the ``check`` field of each row should have.

    The record's first nine 64-bit words, each times an odd constant, summed modulo 2**64.

    Args:
        rows: records of :data:`SAMPLE_DTYPE`, shape (n,).

    Returns:
        uint64, shape (n,).
    """
    words = np.ascontiguousarray(rows).view("<u8").reshape(-1, _CHECKED_WORDS + 1)
    with np.errstate(over="ignore"):
        return np.asarray((words[:, :_CHECKED_WORDS] * _MULTIPLIERS).sum(axis=1, dtype=np.uint64))


def key_hash(key: str) -> int:
    """Return the first eight bytes of SHA-256 of a key, as an unsigned little-endian number."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")


def shard_name(split: Split, number: int) -> str:
    """Return a shard's file name, WebDataset style: ``train-000000.tar``."""
    return f"{split}-{number:06d}.tar"


def index_name(split: Split, number: int) -> str:
    """Return the file name of a shard's DALI index: ``train-000000.idx``."""
    return f"{split}-{number:06d}.idx"


def table_name(split: Split) -> str:
    """Return the file name of a split's table of samples: ``train.samples.npy``."""
    return f"{split}.samples.npy"
