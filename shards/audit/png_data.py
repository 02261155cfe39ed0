"""The image data of a PNG: checked completely, decoded and encoded, some rows at a time.

However large the image, only the compressed data and the pixels that are asked for are in memory as a whole.
"""

import struct
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from zlib_ng import zlib_ng

from shards.audit.png_chunks import GRAY, RGB, SIGNATURE, PngChunks, PngError, write_chunk

Pixels = npt.NDArray[np.uint8]

_PIECE: Final = 1 << 17  # bytes that are inflated at a time; deflate expands at most a thousandfold
_STRIP: Final = 1 << 20  # bytes of pixels that are encoded at a time
_LEVEL: Final = 3  # with filter Up: as small as Pillow's default, written eight and read twice as fast
_WINDOW, _MEMORY = 15, 9  # zlib's
_FILTER_UP: Final = 2
_MAX_FILTER: Final = 4


def check_data(chunks: PngChunks) -> None:
    """Inflate all image data; raise ``PngError`` unless it is undamaged and exactly as long as the image needs."""
    if chunks.interlaced:
        for _ in _inflated(chunks):
            pass
        return
    for rows in _filtered_rows(chunks):
        if (rows[:, 0] > _MAX_FILTER).any():
            raise PngError("the image data has an unknown filter")


def decode_plain(chunks: PngChunks) -> Pixels:
    """Decode a plain PNG strictly: its data inflates, the checksum is right, and it is exactly the pixels' number.

    Pillow alone would not notice a missing checksum, which stops DALI. It gets the inflated rows again in uncompressed
    blocks, and only undoes the filters: inflating twice would cost a quarter more.

    Returns uint8, (height, width) of grey values or palette indices, or (height, width, 3) of RGB; raises ``PngError``
    if the image data is damaged or too short.
    """
    width, channels = chunks.width, chunks.channels
    pixels = np.empty((chunks.height, width * channels), dtype=np.uint8)
    done = 0
    for rows in _filtered_rows(chunks):
        block = pixels[done : done + len(rows)]
        filters = rows[:, 0]
        if filters.any():
            above = pixels[done - 1 : done] if done else np.zeros((1, width * channels), dtype=np.uint8)
            block[:] = _unfiltered(rows, above, width=width, mode="RGB" if channels == 3 else "L")
        else:
            block[:] = rows[:, 1:]
        done += len(rows)
    return pixels.reshape(chunks.height, width, 3) if channels == 3 else pixels


def encode_unfiltered(values: Pixels) -> bytes:
    """Encode uint8 (height, width) as an 8-bit grayscale PNG whose rows have no filter, in one data chunk.

    Filters are for photographs. Without them a mask is a third smaller and is decoded several times faster: what is
    inflated are the values themselves. Pillow cannot leave them out. Masks are runs of equal values: looking for
    nothing else (zlib's Z_RLE) takes a fifth of the time, and inflates as fast.
    """
    height, width = values.shape
    rows = np.zeros((height, width + 1), dtype=np.uint8)  # each row begins with its filter, 0: none
    rows[:, 1:] = values
    deflate = zlib_ng.compressobj(1, zlib_ng.DEFLATED, _WINDOW, _MEMORY, zlib_ng.Z_RLE)
    return _png(width, height, GRAY, [deflate.compress(rows), deflate.flush()])


def encode_rgb(pixels: Pixels) -> bytes:
    """Encode uint8 (height, width, 3) as an 8-bit RGB PNG without loss; every row is stored as its change downwards."""
    height, width = pixels.shape[:2]
    deflate = zlib_ng.compressobj(_LEVEL, zlib_ng.DEFLATED, _WINDOW, _MEMORY)
    parts = []
    above = np.zeros((1, width, 3), dtype=np.uint8)
    step = max(1, _STRIP // (3 * width))
    for start in range(0, height, step):
        block = pixels[start : start + step]
        rows = np.empty((len(block), 1 + 3 * width), dtype=np.uint8)
        rows[:, 0] = _FILTER_UP
        changes = rows[:, 1:].reshape(len(block), width, 3)  # a view: the rows' bytes are adjacent
        np.subtract(block[:1], above, out=changes[:1])
        np.subtract(block[1:], block[:-1], out=changes[1:])
        parts.append(deflate.compress(rows))
        above = block[-1:]
    return _png(width, height, RGB, [*parts, deflate.flush()])


def _png(width: int, height: int, color: int, parts: list[bytes]) -> bytes:
    header = struct.pack(">II5B", width, height, 8, color, 0, 0, 0)
    return SIGNATURE + write_chunk(b"IHDR", header) + write_chunk(b"IDAT", *parts) + write_chunk(b"IEND")


def _filtered_rows(chunks: PngChunks) -> Iterator[Pixels]:
    """Yield the rows of an image that is not interlaced, each with its filter first: uint8 (some, bytes of a row)."""
    ((_, length),) = chunks.passes
    waiting = bytearray()
    for piece in _inflated(chunks):
        waiting += piece
        whole = len(waiting) // length * length
        if whole:
            yield np.frombuffer(bytes(waiting[:whole]), np.uint8).reshape(-1, length)
            del waiting[:whole]


def _inflated(chunks: PngChunks) -> Iterator[bytes]:
    """Yield the inflated image data in pieces; raise ``PngError`` where it is damaged, too short or too long."""
    expected = sum(rows * length for rows, length in chunks.passes)
    inflate = zlib_ng.decompressobj()
    found = 0
    try:
        for body in chunks.image_data:
            for start in range(0, len(body), _PIECE):
                piece = inflate.decompress(body[start : start + _PIECE], expected + 1 - found)
                found += len(piece)
                if found > expected:
                    raise PngError(f"more than the {expected} bytes of image data that the image needs")
                yield piece
    except zlib_ng.error as error:  # type: ignore[misc]  # its stub has an instance
        raise PngError(f"the image data cannot be decoded: {error}") from None
    if found != expected or not inflate.eof:
        raise PngError(f"{found} bytes of image data, expected {expected}", truncated=not inflate.eof)


def _unfiltered(rows: Pixels, above: Pixels, *, width: int, mode: str) -> Pixels:
    """Undo the filters of some rows; ``above`` is the row before them, uint8 (1, bytes), without its filter."""
    first = np.zeros((1, rows.shape[1]), dtype=np.uint8)  # stored without a filter, so that it decodes to itself
    first[:, 1:] = above
    image = Image.new(mode, (width, 1 + len(rows)), None)  # None: not filled first
    try:
        image.frombytes(zlib_ng.compress(np.concatenate([first, rows]), 0), "zip", mode)
    except (ValueError, OSError) as error:
        raise PngError(f"the image data cannot be decoded: {error}") from None
    return np.asarray(image).reshape(1 + len(rows), -1)[1:]
