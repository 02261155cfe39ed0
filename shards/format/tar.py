"""Tar headers (plain POSIX ustar, without time, user or host) and DALI's index of a tar.

The standard library's ``tarfile`` reads what is written here (tests compare header by header); headers are built by
hand because ``TarInfo.tobuf`` takes longer than the checksums of a sample.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shards.errors import SampleError
from shards.format.keys import is_safe
from shards.format.layout import TAR_BLOCK, TAR_NAME_BYTES, extensions_of, key_hash
from shards.store.byte_ranges import ByteRanges, check_shortage

END = bytes(2 * TAR_BLOCK)  # two empty blocks end a tar
INDEX_VERSION = "v1.2"
_SIZE = slice(124, 135)
_MAX_MEMBER = 8**11 - 1  # the size field has eleven octal digits

_HEADER_TAIL = b"0" + bytes(100) + b"ustar\x0000" + bytes(TAR_BLOCK - 265)
_HEADER_OWNER = b"0000644\0" + b"0000000\0" + b"0000000\0"  # mode, user, group
_NO_TIME = b"00000000000\0"
_FIXED_SUM = sum(_HEADER_TAIL) + sum(_HEADER_OWNER) + sum(_NO_TIME) + 8 * ord(" ")


class OtherTarError(SampleError):
    """A tar that is intact, but not the one that belongs there."""


def header(name: str, size: int) -> bytes:
    """Return the 512-byte header of a regular file.

    Raises ``ValueError`` if ``name`` is not ASCII or longer than 100 bytes, or ``size`` is not within 0..8 GiB.
    """
    encoded = name.encode("ascii")
    if len(encoded) > TAR_NAME_BYTES or not 0 <= size <= _MAX_MEMBER:
        raise ValueError(f"{name!r} with {size} bytes does not fit a plain tar header")
    length = b"%011o\0" % size
    checksum = b"%06o\0 " % (_FIXED_SUM + sum(encoded) + sum(length))
    return encoded.ljust(TAR_NAME_BYTES, b"\0") + _HEADER_OWNER + length + _NO_TIME + checksum + _HEADER_TAIL


def image_header(tar: ByteRanges, row: Any) -> tuple[int, bytes, str | None]:
    """Return the offset of the header of a sample's image, the name in it, and the sample's key.

    Raises ``OSError`` if the file cannot be read.
    The key is None if the name does not match the image format and the ``key_hash`` in ``row``, the sample's record.
    """
    offset = int(row["image_offset"]) - TAR_BLOCK
    name = tar[offset : offset + TAR_NAME_BYTES].split(b"\0", 1)[0]
    key, _, extension = name.decode("ascii", "replace").partition(".")
    matches = extension == extensions_of(row).get("image") and is_safe(key) and key_hash(key) == int(row["key_hash"])
    return offset, name, key if matches else None


def intact_header(block: bytes) -> str | None:
    """Return the key of the sample in a header; None if it is not one that :func:`header` writes, for any sample."""
    name, _, _ = block[:TAR_NAME_BYTES].partition(b"\0")
    key = name.decode("ascii", "replace").partition(".")[0]
    try:
        intact = header(name.decode("ascii"), int(block[_SIZE], 8)) == block
    except ValueError:
        return None
    return key if intact and is_safe(key) else None


def sample_key(tar: ByteRanges, row: Any, *, path: Path | str, index: int) -> str:
    """Return the key of sample ``index``, read from the header of its image in the open tar ``path``.

    ``row`` is its record. Raises ``SampleError`` if the header cannot be read or is damaged, ``OtherTarError`` if it is
    another sample's, ``PetsegError`` for a lack of descriptors or memory.
    """
    try:
        offset, name, key = image_header(tar, row)
        other = intact_header(tar[offset : offset + TAR_BLOCK]) if key is None else None
    except OSError as error:
        check_shortage(error)
        raise SampleError(f"{path}: the tar header of sample {index} cannot be read: {error.strerror}") from None
    if other is not None:
        raise OtherTarError(
            f"{path}: byte {offset}: sample {other!r} is where sample {index} should be: the tar was exchanged with "
            "another one, or is of another build; petseg-shard verify says which, and what to do"
        )
    if key is None:
        raise SampleError(f"{path}: byte {offset}: the tar header of sample {index} is damaged (name {name!r})")
    return key


def padded(size: int) -> int:
    """Return a member's size in bytes, rounded up to whole blocks, without its header."""
    return size + -size % TAR_BLOCK


def index_text(samples: Sequence[str]) -> str:
    """Return DALI's index (v1.2) of a tar from one :func:`index_line` per sample; the same as ``wds2idx`` writes."""
    return "".join([f"{INDEX_VERSION} {len(samples)}\n", *(f"{line}\n" for line in samples)])


def index_line(key: str, members: Sequence[tuple[str, int, int]]) -> str:
    """Return a sample's line from (extension, byte offset of the content in the tar, size in bytes) of its members."""
    return " ".join(f"{extension} {offset} {size} {key}.{extension}" for extension, offset, size in members)
