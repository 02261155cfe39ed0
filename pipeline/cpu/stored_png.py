"""The PNGs of a set: a fast path for unfiltered masks, as the project writes them; OpenCV for others and for images.

The header is compared with the table before anything is decoded, so that no file takes more memory than the table says.

An 8-bit greyscale PNG whose rows are stored without a filter is a deflated array with one byte before each row.
Inflating it and dropping these bytes takes a third of the time of a PNG library.
"""

import struct

import cv2
import numpy as np
from zlib_ng import zlib_ng

from pipeline.cpu.pixel_ops import Pixels
from pipeline.io.abandoned import check_wanted
from pipeline.io.scratch import Bytes

# Signature, then the header chunk: length 13, "IHDR", width, height, bits and kind of colour, how it is stored, CRC.
_HEAD = struct.Struct(">8s4s4sII2s3sI")
_SIGNATURE, _HEADER_LENGTH = b"\x89PNG\r\n\x1a\n", b"\0\0\0\r"
_GREY, _RGB = b"\x08\x00", b"\x08\x02"  # both of 8 bits
_PLAIN = b"\0\0\0"  # deflate, filters, not interlaced
_CHUNK = struct.Struct(">I4s")

MAX_RATIO = 1032  # the best that deflate can compress
LARGE = 1 << 16  # bytes of pixels


def decode_mask(data: Bytes, height: int, width: int) -> Pixels | str:
    """Return the values of a mask, uint8 (H, W), or what is wrong with it."""
    if problem := _head_problem(data, height, width, (_GREY,)):
        return problem
    values = decode_unfiltered(data)
    return _decode(data, cv2.IMREAD_UNCHANGED, (height, width)) if values is None else values


def decode_png_image(data: Bytes, height: int, width: int) -> Pixels | str:
    """Return the pixels of an image, uint8 (H, W, 3), or what is wrong with it; grey is repeated."""
    if problem := png_image_problem(data, height, width):
        return problem
    return _decode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION, (height, width, 3))


def png_image_problem(data: Bytes, height: int, width: int) -> str | None:
    """Return why the header is not that of an image of this size; None if it is."""
    return _head_problem(data, height, width, (_GREY, _RGB))


def size_problem(found: tuple[int, ...], expected: tuple[int, ...]) -> str:
    """Return the message for a shape (H, W, ...) that is not that of the table, which the crop was drawn for."""
    return f"{found[1]} x {found[0]} pixels, the table says {expected[1]} x {expected[0]}"


def _head_problem(data: Bytes, height: int, width: int, colours: tuple[bytes, ...]) -> str | None:
    """Return why a file is not a PNG of this size and one of these kinds of colour; None if it is."""
    if len(data) < _HEAD.size:
        return "cannot be decoded: it is too short for a PNG"
    signature, length, kind, found_width, found_height, colour, _, _ = _HEAD.unpack_from(data.data)
    if (signature, length, kind) != (_SIGNATURE, _HEADER_LENGTH, b"IHDR"):
        return "cannot be decoded: it is no PNG"
    if (found_height, found_width) != (height, width):
        return size_problem((found_height, found_width), (height, width))
    if colour not in colours:
        return f"a PNG of {colour[0]} bits and colour type {colour[1]}, not one of those that sets hold"
    return None


def _decode(data: Bytes, flags: int, shape: tuple[int, ...]) -> Pixels | str:
    try:
        pixels = cv2.imdecode(data, flags)
    except cv2.error as error:
        return f"cannot be decoded: {error.err}"
    if pixels is None or pixels.shape != shape or pixels.dtype != np.uint8:
        return "cannot be decoded"
    return pixels  # type: ignore[return-value]


def decode_masks(encoded: list[Bytes], out: Pixels) -> bool:
    """Decode unfiltered masks of one size into (N, H, W), all of them together; return whether that works for all."""
    height, width = out.shape[1:]
    inflated: list[Bytes] = []
    for data in encoded:
        check_wanted()
        parsed = parse_png(data)
        if parsed is None or parsed[:2] != (height, width):
            return False
        one = inflate_unfiltered(parsed[2], height * (width + 1))
        if one is None:
            return False
        inflated.append(one)
    rows = np.concatenate(inflated).reshape(-1, height, width + 1)
    out[:] = rows[:, :, 1:]
    return not rows[:, :, 0].any()


def decode_unfiltered(data: Bytes) -> Pixels | None:
    """Return the values of an 8-bit greyscale PNG without row filters, in one data chunk; None for any other."""
    parsed = parse_png(data)
    if parsed is None:
        return None
    height, width, body = parsed
    rows = inflate_unfiltered(body, height * (width + 1))
    if rows is None or rows[:: width + 1].any():
        return None
    return rows.reshape(height, width + 1)[:, 1:]


def parse_png(data: Bytes) -> tuple[int, int, memoryview] | None:
    """Return height, width and the deflated rows of an 8-bit greyscale PNG; None if it has another form.

    What follows the first data chunk is ignored: rows that are missing are noticed when counted.
    """
    if len(data) < _HEAD.size + _CHUNK.size:
        return None
    signature, length, kind, width, height, colour, form, _ = _HEAD.unpack_from(data.data)
    body_length, body_kind = _CHUNK.unpack_from(data.data, _HEAD.size)
    if (signature, length, kind, body_kind) != (_SIGNATURE, _HEADER_LENGTH, b"IHDR", b"IDAT"):
        return None
    if (colour, form) != (_GREY, _PLAIN):
        return None
    if height * (width + 1) > MAX_RATIO * body_length:
        return None
    start = _HEAD.size + _CHUNK.size
    return height, width, data.data[start : start + body_length]


def inflate_unfiltered(body: memoryview, expected: int) -> Bytes | None:
    """Return the inflated rows, each with its filter byte in front, or None if they are not ``expected`` bytes."""
    try:
        if expected > LARGE and zlib_ng.decompressobj().decompress(body[:64], 1) != b"\0":
            return None  # the first row has a filter: not worth inflating the rest
        inflate = zlib_ng.decompressobj()
        inflated = inflate.decompress(body, expected + 1)  # a few megabytes could become gigabytes
    except zlib_ng.error:  # type: ignore[misc]  # its stub has an instance
        return None
    return np.frombuffer(inflated, dtype=np.uint8) if inflate.eof and len(inflated) == expected else None
