"""The structure of a PNG file: whether it is whole, and whether it is the plain kind that a trimap should be.

Pillow does not check the CRC of image data, and stops reading before the end; both are checked here.
Source: W3C Portable Network Graphics Specification (Third Edition), sections 5 and 11.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from zlib_ng import zlib_ng

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY = 0
_STORED_BLOCK = 0xFFFF
# Chunks that no decoder lets change the values of a grey picture. eXIf may turn it, tRNS adds alpha, acTL animates,
# iCCP, gAMA and cICP may change its tones.
_HARMLESS = frozenset({b"IHDR", b"IDAT", b"IEND", b"tIME", b"tEXt", b"zTXt", b"iTXt", b"pHYs", b"bKGD", b"hIST"})


class PngError(ValueError):
    """The file is damaged; ``truncated`` says that it ends too early."""

    def __init__(self, message: str, *, truncated: bool = False) -> None:
        super().__init__(message)
        self.truncated = truncated


@dataclass(frozen=True)
class PngHeader:
    """What a PNG's chunks say, once all of them are found whole.

    Attributes:
        width: pixels.
        height: pixels.
        depth: bits a channel.
        colour: PNG's colour type, 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGB with alpha.
        interlaced: Adam7.
        harmless: no chunk may change how the values are decoded.
    """

    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool
    harmless: bool

    @property
    def plain(self) -> bool:
        """Whether this is an 8-bit grey PNG that every decoder reads alike."""
        return self.depth == 8 and self.colour == GREY and not self.interlaced and self.harmless


def read_header(data: bytes) -> PngHeader:
    """Check every chunk's CRC and order, and return what the header says.

    Raises:
        PngError: no PNG, damaged, or truncated.
    """
    if not data.startswith(SIGNATURE):
        raise PngError("no PNG signature")
    position, kinds = len(SIGNATURE), set()
    header: bytes | None = None
    while True:
        kind, body, position = _chunk(data, position)
        kinds.add(kind)
        if header is None:
            if kind != b"IHDR" or len(body) != 13:
                raise PngError("the first chunk is not IHDR")
            header = body
        if kind == b"IEND":
            break
    if b"IDAT" not in kinds:
        raise PngError("no image data")
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    if not width or not height:
        raise PngError(f"a picture of {width} x {height} pixels")
    return PngHeader(width, height, header[8], header[9], header[12] != 0, kinds <= _HARMLESS)


def decode_plain(data: bytes, header: PngHeader) -> npt.NDArray[np.uint8]:
    """Decode a plain PNG strictly: its data inflate, their checksum fits, and they are exactly the pixels' number.

    Pillow alone would not notice a missing checksum, which stops DALI. So that the data need not be inflated twice,
    Pillow gets them again without compression, and undoes the filters only.

    Returns:
        uint8, shape (height, width).

    Raises:
        PngError: the image data are damaged or too few.
    """
    expected = (header.width + 1) * header.height
    inflate = zlib_ng.decompressobj()
    try:
        compressed = _image_data(data)
        rows = inflate.decompress(compressed, expected + 1)
        if len(rows) != expected or not inflate.eof:
            raise PngError(f"{len(rows)} bytes of image data, expected {expected}", truncated=not inflate.eof)
        end = len(compressed) - len(inflate.unused_data)
        checksum = compressed[end - 4 : end]  # it was just compared with the rows
        image = Image.new("L", (header.width, header.height), None)  # not filled first
        image.frombytes(stored(rows, checksum), "zip", "L")
    except (zlib_ng.error, ValueError, OSError) as error:  # type: ignore[misc]  # its stub has an instance
        if isinstance(error, PngError):
            raise
        raise PngError(f"the image data cannot be decoded: {error}") from None
    return np.asarray(image)


def encode_unfiltered(values: npt.NDArray[np.uint8], *, level: int) -> bytes:
    """Encode uint8 (height, width) as an 8-bit grey PNG whose rows have no filter, in one data chunk.

    Filters are for photographs. A trimap is smaller without them, by a third, and is read several times faster: what is
    inflated are the values themselves.
    """
    height, width = values.shape
    rows = np.zeros((height, width + 1), dtype=np.uint8)  # each row begins with its filter, 0: none
    rows[:, 1:] = values
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((8, GREY, 0, 0, 0))
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), level)), (b"IEND", b""))
    return SIGNATURE + b"".join(
        len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big") for kind, body in chunks
    )


def stored(data: bytes, checksum: bytes) -> bytes:
    """Return a zlib stream of uncompressed blocks (RFC 1950, RFC 1951 3.2.4); ``zlib.compress(data, 0)`` is slower.

    Args:
        data: what the stream holds.
        checksum: its Adler-32, four bytes, big endian.
    """
    parts = [b"\x78\x01"]
    for start in range(0, len(data), _STORED_BLOCK):
        block = data[start : start + _STORED_BLOCK]
        last = start + _STORED_BLOCK >= len(data)
        parts += [struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF), block]
    return b"".join([*parts, checksum])


def _chunk(data: bytes, position: int) -> tuple[bytes, bytes, int]:
    """Return kind, body and end of the chunk at ``position``."""
    start = position + 8
    if start > len(data):
        raise PngError("the file ends before its last chunk", truncated=True)
    end = start + int.from_bytes(data[position : position + 4], "big")
    if end + 4 > len(data):
        raise PngError(f"the file ends inside the chunk at byte {position}", truncated=True)
    if zlib_ng.crc32(data[position + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
        raise PngError(f"the checksum of the chunk at byte {position} does not fit")
    return data[position + 4 : start], data[start:end], end + 4


def _image_data(data: bytes) -> bytes:
    parts, position = [], len(SIGNATURE)
    while position + 8 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        if data[position + 4 : position + 8] == b"IDAT":
            parts.append(data[position + 8 : position + 8 + length])
        position += 12 + length
    return b"".join(parts)
