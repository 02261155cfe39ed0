"""EXIF's orientation: where it stands in a file, and what it asks for.

Sources: JEITA CP-3451 (EXIF), TIFF 6.0 (the directory inside EXIF).
"""

import struct
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

NORMAL: Final = 1  # as stored
_ENTRY = (0x0112, 3, 1)  # tag, TIFF type SHORT, one value
_INVERSE = {6: 8, 8: 6}  # all others undo themselves

# What is done about the rotation that EXIF asks for: what the mask fits (auto), always rotate, or never.
ExifMode: TypeAlias = Literal["auto", "apply", "ignore"]
EXIF_MODES: Final[tuple[ExifMode, ...]] = get_args(ExifMode)

Pixels = npt.NDArray[np.uint8]


def find_orientation(data: bytes, tiff: int, end: int) -> tuple[int, int | None]:
    """Find the orientation in the first TIFF directory of EXIF data.

    Args:
        data: the file.
        tiff: the byte at which the EXIF data's TIFF header starts.
        end: the byte after the EXIF data.

    Returns the orientation 1..8 and the byte offset of its two bytes; (1, None) where there is none.
    """
    none = (NORMAL, None)
    mark = data[tiff : tiff + 2]
    if mark not in (b"II", b"MM") or tiff + 8 > end:
        return none
    order = ">" if mark == b"MM" else "<"
    (directory,) = struct.unpack_from(order + "I", data, tiff + 4)
    first = tiff + directory + 2
    if directory < 8 or first > end:
        return none
    (entries,) = struct.unpack_from(order + "H", data, first - 2)
    for at in range(first, min(first + 12 * entries, end - 11), 12):
        tag, kind, count, value = struct.unpack_from(order + "HHIH", data, at)
        if (tag, kind, count) == _ENTRY:
            return (value, at + 8) if 1 <= value <= 8 else none
    return none


def apply_orientation(pixels: Pixels, orientation: int) -> Pixels:
    """Return pixels (height, width, ...) rotated and flipped as EXIF's orientation 1..8 asks for."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def undo_orientation(pixels: Pixels, orientation: int) -> Pixels:
    """Return pixels (height, width, ...) as they were before :func:`apply_orientation`."""
    return apply_orientation(pixels, _INVERSE.get(orientation, orientation))
