"""The constants of a shard set: file names, members, the record of one sample. See docs/formats.md.

Everything here is part of the format: a change needs a new :data:`VERSION`.
"""

import hashlib
import re
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from shards.errors import UsageError

FORMAT: Final = "petseg-shards"
VERSION: Final = 2

Split: TypeAlias = Literal["train", "val", "test"]
SPLITS: Final[tuple[Split, ...]] = get_args(Split)

Storage: TypeAlias = Literal["source", "jpeg", "raw"]
STORAGES: Final[tuple[Storage, ...]] = get_args(Storage)

MANIFEST_NAME: Final = "manifest.json"
RUN_CHECKPOINTS: Final = ("last.pt", "best.pt")  # by which a run is told from a set, see petseg.runs.run_folder
AUDIT_NAME: Final = "audit.jsonl"
OLD_AUDIT_NAME: Final = "quarantine.jsonl"  # of format 1, whose sets may be replaced
_SET_FILE = re.compile(r"(train|val|test)(-\d{6,}\.(tar|idx)|\.(samples|shards)\.npy)")

ImageFormat: TypeAlias = Literal["jpg", "png", "npy"]
IMAGE_FORMATS: Final[tuple[ImageFormat, ...]] = get_args(ImageFormat)
ROLES: Final = ("image", "mask", "meta")  # the members of a sample, in tar order
# Their file extensions, by the format of the image, which is that of the storage, or in `source` storage JPEG or PNG.
EXTENSIONS: Final[dict[ImageFormat, dict[str, str]]] = {
    "jpg": {"image": "jpg", "mask": "mask.png", "meta": "json"},
    "png": {"image": "png", "mask": "mask.png", "meta": "json"},
    "npy": {"image": "image.npy", "mask": "mask.npy", "meta": "json"},
}
STORED_FORMATS: Final[dict[Storage, tuple[ImageFormat, ...]]] = {
    "source": ("jpg", "png"),
    "jpeg": ("jpg",),
    "raw": ("npy",),
}
MOST_PIXELS: Final = 2**29  # of an image in `source` storage
MAX_SIZE: Final = 4096  # of stored images, pixels per side, in `jpeg` and `raw` storage
TAR_BLOCK: Final = 512  # bytes; headers and members of a tar start at multiples of it
TAR_NAME_BYTES: Final = 100  # a tar header starts with the member's name
MAX_KEY_LENGTH: Final = 80  # the longest member name stays below TAR_NAME_BYTES

# One sample, 80 bytes, little endian. Offsets are those of a member's first byte in its tar (its header is 512 bytes
# before), lengths are in bytes, CRCs are zlib's over the member's bytes. `check` covers the other 72 bytes.
SAMPLE_DTYPE: Final = np.dtype(
    [
        ("shard", "<u4"),
        ("image_format", "<u2"),  # index into IMAGE_FORMATS
        ("reserved", "<u2"),  # 0
        ("image_offset", "<u8"),
        ("mask_offset", "<u8"),
        ("meta_offset", "<u8"),
        ("image_length", "<u4"),
        ("mask_length", "<u4"),
        ("meta_length", "<u4"),
        ("image_crc32", "<u4"),
        ("mask_crc32", "<u4"),
        ("meta_crc32", "<u4"),
        ("width", "<u4"),  # of the source image after a rotation by its EXIF orientation, pixels
        ("height", "<u4"),
        ("key_hash", "<u8"),
        ("check", "<u8"),
    ]
)
assert SAMPLE_DTYPE.itemsize == 80

# One shard, 88 bytes, little endian: what a set's manifest would otherwise say of each tar and its index.
SHARD_DTYPE: Final = np.dtype(
    [
        ("samples", "<u8"),
        ("bytes", "<u8"),  # of the tar
        ("index_bytes", "<u8"),
        ("sha256", "|u1", (32,)),  # of the tar
        ("index_sha256", "|u1", (32,)),
    ]
)
assert SHARD_DTYPE.itemsize == 88

# What is longer is not read: a forged tar with holes, of a few kilobytes on disk, would exhaust the memory. An image
# of 2**29 pixels, the most that is packed, takes 1.6 GB as a PNG that could not be compressed, its mask a third.
MOST_MEMBER: Final = {"image": 1 << 31, "mask": 1 << 30, "meta": 1 << 26}

# What NumPy writes before the records of a table: a multiple of 64 bytes, with room for any number of records.
HEADER_BYTES: Final = {SAMPLE_DTYPE: 448, SHARD_DTYPE: 256}

_CHECKED_WORDS = 9
_MOST_OFFSET = np.uint64(1 << 62)  # no tar is as large, and sums stay below what 64 bits hold
Rows: TypeAlias = npt.NDArray[Any]


def key_hash(key: str) -> int:
    """Return the first eight bytes of the SHA-256 of a key, as an unsigned little-endian number."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")


# Odd multipliers make the sum change with any single flipped bit: 2^k times an odd number is not 0 mod 2^64.
CHECK_MULTIPLIERS: Final = tuple(key_hash(f"petseg-shards row {i}") | 1 for i in range(_CHECKED_WORDS))
_MULTIPLIERS = np.array(CHECK_MULTIPLIERS, dtype=np.uint64)


def row_check(rows: Rows) -> npt.NDArray[np.uint64]:
    """Return the correct ``check`` field, uint64 (n,), of records of :data:`SAMPLE_DTYPE`, shape (n,).

    It is the sum of a record's first nine 64-bit words, each times an odd constant, modulo 2**64.
    """
    words = np.ascontiguousarray(rows).view("<u8").reshape(-1, _CHECKED_WORDS + 1)
    with np.errstate(over="ignore"):
        return np.asarray((words[:, :_CHECKED_WORDS] * _MULTIPLIERS).sum(axis=1, dtype=np.uint64))


def is_unsound(rows: Rows, *, shards: int, largest: tuple[int, int] | None) -> npt.NDArray[np.bool_]:
    """Return which records, shape (n,), cannot be right: by their checks, or by what they say of the set.

    Args:
        rows: of :data:`SAMPLE_DTYPE`.
        shards: the number of shards of the split.
        largest: the largest height and width of its stored images; None where all have one size.
    """
    unsound: npt.NDArray[np.bool_] = (row_check(rows) != rows["check"]) | (rows["shard"] >= shards)
    unsound |= (rows["height"] == 0) | (rows["width"] == 0) | (rows["reserved"] != 0)
    for role in ROLES:
        unsound |= (rows[f"{role}_offset"] > _MOST_OFFSET) | (rows[f"{role}_length"] > MOST_MEMBER[role])
    if largest is not None:  # memory is allocated by them
        unsound |= (rows["height"] > largest[0]) | (rows["width"] > largest[1])
        unsound |= rows["height"].astype(np.uint64) * rows["width"] > MOST_PIXELS
    return unsound


def extensions_of(row: Any) -> dict[str, str]:
    """Return the file extension of each member of a sample, by role, in tar order; ``{}`` for a damaged record."""
    number = int(row["image_format"])
    return EXTENSIONS[IMAGE_FORMATS[number]] if number < len(IMAGE_FORMATS) else {}


def member_span(row: Any, role: str) -> tuple[int, int]:
    """Return (offset, length) in bytes of a member (``image``, ``mask`` or ``meta``) in its tar."""
    if role not in ROLES:
        raise UsageError(f"a sample has {', '.join(ROLES)}, but no {role!r}")
    return int(row[f"{role}_offset"]), int(row[f"{role}_length"])


def shard_name(split: Split, number: int) -> str:
    """Return a shard's file name, WebDataset style: ``train-000000.tar``."""
    return f"{split}-{number:06d}.tar"


def index_name(split: Split, number: int) -> str:
    """Return the file name of a shard's DALI index: ``train-000000.idx``."""
    return f"{split}-{number:06d}.idx"


def table_name(split: Split) -> str:
    """Return the file name of a split's table of samples: ``train.samples.npy``."""
    return f"{split}.samples.npy"


def shard_table_name(split: Split) -> str:
    """Return the file name of a split's table of shards: ``train.shards.npy``."""
    return f"{split}.shards.npy"


def table_offset(index: int, dtype: "np.dtype[Any]" = SAMPLE_DTYPE) -> int:
    """Return the byte at which a record (by default a sample's) starts in its table file."""
    return HEADER_BYTES[dtype] + index * dtype.itemsize


def is_set_file(name: str) -> bool:
    """Return whether a file is named like a shard, an index or a table."""
    return _SET_FILE.fullmatch(name) is not None
