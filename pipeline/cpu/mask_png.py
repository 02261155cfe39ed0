"""Trimaps from PNG: a short way for the plain kind that the project writes itself, OpenCV for all others.

An 8-bit grey PNG whose rows are stored without a filter is nothing but a deflated array with one byte before each row.
Inflating it and cutting these bytes off takes a third of the time of a PNG library.
"""

from __future__ import annotations

import struct

import cv2
import numpy as np
from zlib_ng import zlib_ng

from pipeline.cpu.pixel_ops import Pixels
from pipeline.io.members import Bytes

# Signature, then the header chunk: length 13, "IHDR", width, height, 8 bits, grey, deflate, filters, no interlace, CRC.
_HEAD = struct.Struct(">8s4s4sII5sI")
_SIGNATURE, _HEADER_LENGTH, _PLAIN = b"\x89PNG\r\n\x1a\n", b"\0\0\0\r", b"\x08\0\0\0\0"
_CHUNK = struct.Struct(">I4s")

MAX_SHRINK = 1032  # deflate cannot shrink anything by more than that
LARGE = 1 << 16  # bytes of pixels


def decode_trimap(data: Bytes) -> Pixels | str:
    """Return a trimap's values, uint8 (H, W), or what is wrong with it."""
    values = unfiltered(data)
    if values is not None:
        return values
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        return f"cannot be decoded: {error.err}"
    if pixels is None:
        return "cannot be decoded"
    if pixels.ndim != 2 or pixels.dtype != np.uint8:
        return f"not an 8-bit picture of one channel ({pixels.dtype}, shape {pixels.shape})"
    return pixels  # type: ignore[return-value]


def decode_alike(encoded: list[Bytes], out: Pixels) -> bool:
    """Decode trimaps that are all of the plain kind and of one size, (N, H, W): all of them together.

    Returns:
        False if any is of another kind or size, or damaged; ``out`` is then not whole.
    """
    height, width = out.shape[1:]
    inflated: list[Bytes] = []
    for data in encoded:
        plain = find_plain(data)
        if plain is None or plain[:2] != (height, width):
            return False
        one = inflate_unfiltered(plain[2], height * (width + 1))
        if one is None:
            return False
        inflated.append(one)
    rows = np.concatenate(inflated).reshape(-1, height, width + 1)
    out[:] = rows[:, :, 1:]
    return not rows[:, :, 0].any()


def unfiltered(data: Bytes) -> Pixels | None:
    """Return the values of a plain grey PNG without row filters, in one data chunk; None if it is anything else."""
    plain = find_plain(data)
    if plain is None:
        return None
    height, width, body = plain
    rows = inflate_unfiltered(body, height * (width + 1))
    if rows is None or rows[:: width + 1].any():
        return None
    return rows.reshape(height, width + 1)[:, 1:]


def find_plain(data: Bytes) -> tuple[int, int, memoryview] | None:
    """Return height, width and the deflated rows of an 8-bit grey PNG; None if it has another form.

    What it has after the first data chunk is not looked at: rows that are not in there are missed when counted.
    """
    if len(data) < _HEAD.size + _CHUNK.size:
        return None
    signature, length, kind, width, height, form, _ = _HEAD.unpack_from(data.data)
    body_length, body_kind = _CHUNK.unpack_from(data.data, _HEAD.size)
    if (signature, length, kind, form, body_kind) != (_SIGNATURE, _HEADER_LENGTH, b"IHDR", _PLAIN, b"IDAT"):
        return None
    if height * (width + 1) > MAX_SHRINK * body_length:
        return None
    start = _HEAD.size + _CHUNK.size
    return height, width, data.data[start : start + body_length]


def inflate_unfiltered(body: memoryview, expected: int) -> Bytes | None:
    """Return the inflated rows, each with its filter byte in front, or None if they are not ``expected`` bytes."""
    try:
        if expected > LARGE and zlib_ng.decompressobj().decompress(body[:64], 1) != b"\0":
            return None  # the first row has a filter: not worth inflating the rest
        inflated = zlib_ng.decompress(body, bufsize=expected)
    except zlib_ng.error:  # type: ignore[misc]  # its stub has an instance
        return None
    return np.frombuffer(inflated, dtype=np.uint8) if len(inflated) == expected else None
