"""The structure of a PNG file: whether it is complete, and whether it is the plain kind that a mask should be.

Pillow does not check the CRC of image data when it decodes, and stops reading before the end of the file. Its
``verify()`` would check both, but costs a second ``Image.open`` and does not say which chunks there are.
Source: W3C Portable Network Graphics Specification (Third Edition), sections 5 and 11.
"""

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from zlib_ng import zlib_ng

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GRAY = 0
# Chunks that no decoder lets change the values of a grayscale image. eXIf may turn it, tRNS adds alpha, acTL animates,
# iCCP, gAMA and cICP may change its tones.
_HARMLESS = frozenset({b"IHDR", b"IDAT", b"IEND", b"tIME", b"tEXt", b"zTXt", b"iTXt", b"pHYs", b"bKGD", b"hIST"})


class PngError(ValueError):
    """The file is damaged; ``truncated`` says that it ends too early."""

    def __init__(self, message: str, *, truncated: bool = False) -> None:
        super().__init__(message)
        self.truncated = truncated


@dataclass(frozen=True)
class PngChunks:
    """What a PNG's chunks say, once all of them are found undamaged."""

    width: int
    height: int
    depth: int  # bits per channel
    color: int  # PNG's color type: 0 gray, 2 RGB, 3 palette, 4 gray with alpha, 6 RGB with alpha
    interlaced: bool
    harmless: bool  # no chunk may change how the values are decoded
    image_data: tuple[bytes, ...]  # the contents of the IDAT chunks, in order

    @property
    def plain(self) -> bool:
        """Whether this is an 8-bit grayscale PNG that every decoder reads alike."""
        return self.depth == 8 and self.color == GRAY and not self.interlaced and self.harmless


def read_chunks(data: bytes) -> PngChunks:
    """Check every chunk's CRC and order, and return what they say; raise ``PngError`` if it is no PNG or damaged."""
    if not data.startswith(SIGNATURE):
        raise PngError("no PNG signature")
    kind, header, position = _chunk(data, len(SIGNATURE))
    if kind != b"IHDR" or len(header) != 13:
        raise PngError("the first chunk is not IHDR")
    kinds: set[bytes] = set()
    image_data = []
    while kind != b"IEND":
        kind, body, position = _chunk(data, position)
        kinds.add(kind)
        if kind == b"IDAT":
            image_data.append(body)
    if not image_data:
        raise PngError("no image data")
    width, height, depth, color, _, _, interlace = struct.unpack(">II5B", header)
    if not width or not height:
        raise PngError(f"an image of {width} x {height} pixels")
    return PngChunks(width, height, depth, color, interlace != 0, kinds <= _HARMLESS, tuple(image_data))


def decode_plain(chunks: PngChunks) -> npt.NDArray[np.uint8]:
    """Decode a plain PNG strictly: its data inflates, the checksum is right, and it is exactly the pixels' number.

    Pillow alone would not notice a missing checksum, which stops DALI. It gets the inflated data again in uncompressed
    blocks, and only undoes the filters: inflating twice would cost a quarter more.

    Returns uint8, shape (height, width); raises ``PngError`` if the image data is damaged or too short.
    """
    expected = (chunks.width + 1) * chunks.height
    inflate = zlib_ng.decompressobj()
    image = Image.new("L", (chunks.width, chunks.height), None)  # None: not filled first
    try:
        rows = inflate.decompress(b"".join(chunks.image_data), expected + 1)
        if len(rows) != expected or not inflate.eof:
            raise PngError(f"{len(rows)} bytes of image data, expected {expected}", truncated=not inflate.eof)
        image.frombytes(zlib_ng.compress(rows, 0), "zip", "L")
    except PngError:
        raise
    except (zlib_ng.error, ValueError, OSError) as error:  # type: ignore[misc]  # its stub has an instance
        raise PngError(f"the image data cannot be decoded: {error}") from None
    return np.asarray(image)


def encode_unfiltered(values: npt.NDArray[np.uint8], *, level: int = 6) -> bytes:
    """Encode uint8 (height, width) as an 8-bit grayscale PNG whose rows have no filter, in one data chunk.

    Filters are for photographs. Without them a mask is a third smaller and is decoded several times faster: what is
    inflated are the values themselves. Pillow cannot leave them out. A higher ``level`` costs time and gains little.
    """
    height, width = values.shape
    rows = np.zeros((height, width + 1), dtype=np.uint8)  # each row begins with its filter, 0: none
    rows[:, 1:] = values
    header = struct.pack(">II5B", width, height, 8, GRAY, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib_ng.compress(rows.tobytes(), level)), (b"IEND", b""))
    return SIGNATURE + b"".join(
        len(body).to_bytes(4, "big") + kind + body + zlib_ng.crc32(kind + body).to_bytes(4, "big")
        for kind, body in chunks
    )


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
