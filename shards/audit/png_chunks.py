"""The structure of a PNG file: whether it is complete, and whether it is the plain kind that every decoder reads alike.

Pillow does not check the CRC of image data when it decodes, and stops reading before the end of the file. Its
``verify()`` would check both, but costs a second ``Image.open`` and does not say which chunks there are.
Source: W3C Portable Network Graphics Specification (Third Edition), sections 5 and 11.
"""

import struct
from dataclasses import dataclass
from typing import Final

from zlib_ng import zlib_ng

from shards.audit.orientation import NORMAL, find_orientation

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
GRAY, RGB, PALETTE, GRAY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6  # PNG's color types
_CHANNELS = {GRAY: 1, RGB: 3, PALETTE: 1, GRAY_ALPHA: 2, RGB_ALPHA: 4}
_DEPTHS = {GRAY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GRAY_ALPHA: (8, 16), RGB_ALPHA: (8, 16)}
_CRITICAL = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
# Chunks that no decoder lets change the pixels of a grey or RGB image. An eXIf chunk is one if it asks for no rotation;
# tRNS adds alpha, acTL animates, iCCP, gAMA and cICP may change colours.
HARMLESS = frozenset(
    {b"IHDR", b"IDAT", b"IEND", b"tIME", b"tEXt", b"zTXt", b"iTXt", b"pHYs", b"bKGD", b"hIST", b"sRGB", b"eXIf"}
)
_MOST_CHUNKS = 1 << 18  # writers use 8 KiB of image data for each and more; a GiB in chunks of nothing takes minutes
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


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
    color: int  # PNG's color type: GRAY, RGB, PALETTE, GRAY_ALPHA or RGB_ALPHA
    interlaced: bool
    kinds: frozenset[bytes]  # of all chunks
    orientation: int  # that an eXIf chunk asks for, 1..8
    stray: bool  # whether bytes follow the last chunk
    header: bytes  # the content of the IHDR chunk
    image_data: tuple[memoryview, ...]  # the contents of the IDAT chunks, in order

    @property
    def channels(self) -> int:
        """The number of channels that are stored: 1 for a palette."""
        return _CHANNELS[self.color]

    @property
    def plain(self) -> bool:
        """Whether the pixels are stored plainly: 8 bits a channel, not interlaced, and grey, RGB or indices."""
        return self.depth == 8 and self.color in (GRAY, RGB, PALETTE) and not self.interlaced

    @property
    def alpha(self) -> bool:
        """Whether there is an alpha channel, or a transparent colour."""
        return self.color in (GRAY_ALPHA, RGB_ALPHA) or b"tRNS" in self.kinds

    @property
    def harmless(self) -> bool:
        """Whether no chunk may change how pixels are decoded, except an eXIf chunk's orientation."""
        return self.kinds <= HARMLESS and not self.stray

    @property
    def passes(self) -> list[tuple[int, int]]:
        """(rows, bytes of a row with its filter) of the image data: one pass, or up to seven where it is interlaced."""
        sizes = [(self.height, self.width)]
        if self.interlaced:
            sizes = [
                (-(-(self.height - top) // down), -(-(self.width - left) // right)) for top, left, down, right in _ADAM7
            ]
        bits = self.depth * self.channels
        return [(rows, 1 + -(-columns * bits // 8)) for rows, columns in sizes if rows > 0 and columns > 0]


def read_chunks(data: bytes) -> PngChunks:
    """Check every chunk's CRC and order, and return what they say; raise ``PngError`` if it is no PNG or damaged."""
    if not data.startswith(SIGNATURE):
        raise PngError("no PNG signature")
    view = memoryview(data)
    kind, header, position = _chunk(view, len(SIGNATURE))
    if kind != b"IHDR" or len(header) != 13:
        raise PngError("the first chunk is not IHDR")
    kinds = {kind}
    image_data: list[memoryview] = []
    orientation = NORMAL
    count = 1
    while kind != b"IEND":
        before, count = kind, count + 1
        if count > _MOST_CHUNKS:
            raise PngError(f"more than {_MOST_CHUNKS} chunks")
        kind, body, position = _chunk(view, position)
        if kind == b"IHDR" or (kind == b"IDAT" and image_data and before != b"IDAT"):
            raise PngError(f"a second {kind.decode()} chunk at an unexpected place")
        if kind not in _CRITICAL and not kind[0] & 0x20:
            raise PngError(f"an unknown chunk {kind!r} that decoders may not skip")
        kinds.add(kind)
        if kind == b"IDAT":
            image_data.append(body)
        elif kind == b"eXIf":
            orientation, _ = find_orientation(bytes(body), 0, len(body))
    if not image_data:
        raise PngError("no image data")
    width, height, depth, color, compression, filters, interlace = struct.unpack(">II5B", header)
    if not width or not height:
        raise PngError(f"an image of {height} x {width} pixels (height x width)")
    if depth not in _DEPTHS.get(color, ()) or compression or filters or interlace > 1:
        raise PngError(f"an unknown kind: {bytes(header[8:]).hex(' ')} after the size")
    return PngChunks(
        width=width,
        height=height,
        depth=depth,
        color=color,
        interlaced=interlace == 1,
        kinds=frozenset(kinds),
        orientation=orientation,
        stray=position != len(data),
        header=bytes(header),
        image_data=tuple(image_data),
    )


def without_extras(chunks: PngChunks) -> bytes:
    """Return the same PNG with its header and image data only."""
    image_data = [write_chunk(b"IDAT", body) for body in chunks.image_data]
    return SIGNATURE + b"".join([write_chunk(b"IHDR", chunks.header), *image_data, write_chunk(b"IEND")])


def write_chunk(kind: bytes, *bodies: bytes | memoryview) -> bytes:
    """Return a chunk with its length and CRC; ``bodies`` are the parts of its content."""
    length, crc = 0, zlib_ng.crc32(kind)
    for body in bodies:
        length, crc = length + len(body), zlib_ng.crc32(body, crc)
    return b"".join((length.to_bytes(4, "big"), kind, *bodies, crc.to_bytes(4, "big")))


def _chunk(data: memoryview, position: int) -> tuple[bytes, memoryview, int]:
    """Return kind, body and end of the chunk at ``position``."""
    start = position + 8
    if start > len(data):
        raise PngError("the file ends before its last chunk", truncated=True)
    end = start + int.from_bytes(data[position : position + 4], "big")
    if end + 4 > len(data):
        raise PngError(f"the file ends inside the chunk at byte {position}", truncated=True)
    if zlib_ng.crc32(data[position + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
        raise PngError(f"the checksum of the chunk at byte {position} does not fit")
    return bytes(data[position + 4 : start]), data[start:end], end + 4
