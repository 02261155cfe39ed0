"""Sizes in pixels, and how an image of one size becomes one of another: stretched, cropped or letterboxed.

The integer arithmetic that packing, loading and prediction share, so that all of them place every pixel alike.
"""

import math
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from shards.errors import UsageError, is_whole_number, option

Size: TypeAlias = tuple[int, int]  # height, width in pixels
Fit: TypeAlias = Literal["stretch", "cover", "contain"]
FITS: Final[tuple[Fit, ...]] = get_args(Fit)
Scales: TypeAlias = tuple[float, float]  # least and most output pixels per image pixel

MIN_SCALE: Final = 0.01  # of a crop, output pixels per image pixel
MAX_SCALE: Final = 16.0

# What letterboxing puts around an image: ImageNet's mean colour, which normalisation maps to about zero.
PAD_COLOUR: Final = (124, 116, 104)

Integers: TypeAlias = npt.NDArray[np.integer[Any]]
Boxes: TypeAlias = npt.NDArray[np.int32]  # top, left, height, width in whole pixels, (B, 4)
Floats: TypeAlias = npt.NDArray[np.float64]


def parse_size(value: Any, *, name: str = "size", least: int = 1, most: int = 4096) -> Size:
    """Return (height, width) from N, (H, W), "N" or "HxW"; ``name``: the option.

    Raises ``UsageError`` for anything else, and for a side outside ``least``..``most``.
    """
    parts: Any = value
    if isinstance(value, str):
        texts = value.lower().split("x")
        whole_numbers = all(text.isascii() and text.isdecimal() and len(text) < 10 for text in texts)
        parts = [int(text) for text in texts] if whole_numbers else ()
    elif is_whole_number(value):
        parts = (value,)
    elif not isinstance(value, tuple | list):
        parts = ()
    sides = tuple(parts) * (2 if len(parts) == 1 else 1)
    whole = all(map(is_whole_number, sides))
    if len(sides) != 2 or not whole or not all(least <= side <= most for side in sides):
        typed = size_text((sides[0], sides[1])) if whole and len(sides) == 2 else value
        raise UsageError(
            f"{option(name, value, typed=typed)}: give N or HxW (height x width) in "
            f"pixels, such as 128 or 96x160, each side from {least} to {most}"
        )
    return sides[0], sides[1]


def size_text(size: Size) -> str:
    """Return a size as it is written in options: ``128`` for a square, else ``HxW``."""
    height, width = size
    return str(height) if height == width else f"{height}x{width}"


def cover_sizes(heights: Integers, widths: Integers, size: Size) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return heights and widths of the largest boxes in images that have the aspect ratio of ``size``; int64 (B,)."""
    h, w = heights.astype(np.int64), widths.astype(np.int64)
    height, width = size
    taller = h * width > w * height
    box_heights = np.where(taller, np.clip((2 * w * height + width) // (2 * width), 1, h), h)
    box_widths = np.where(taller, w, np.clip((2 * h * width + height) // (2 * height), 1, w))
    return box_heights, box_widths


def fit_boxes(heights: Integers, widths: Integers, *, size: Size, fit: Fit) -> Boxes:
    """Return which box of each image is shown without augmentation: the centre with ``cover``, else all of it."""
    h, w = heights.astype(np.int64), widths.astype(np.int64)
    box_heights, box_widths = cover_sizes(h, w, size) if fit == "cover" else (h, w)
    return np.stack([(h - box_heights) // 2, (w - box_widths) // 2, box_heights, box_widths], axis=1).astype(np.int32)


def placements(boxes: Boxes, *, size: Size, fit: Fit) -> Boxes:
    """Return where the pixels of each box are put in an output of ``size``: all of it, but with ``contain`` its middle.

    With ``contain`` a box keeps its aspect ratio (up to rounding to whole pixels, at least 1) and touches two opposite
    sides of the output.
    """
    height, width = size
    if fit != "contain":
        return np.tile(np.array([0, 0, height, width], dtype=np.int32), (len(boxes), 1))
    h, w = boxes[:, 2].astype(np.int64), boxes[:, 3].astype(np.int64)
    taller = h * width >= w * height
    placed_heights = np.where(taller, height, np.clip((2 * h * width + w) // (2 * w), 1, height))
    placed_widths = np.where(taller, np.clip((2 * w * height + h) // (2 * h), 1, width), width)
    top, left = (height - placed_heights) // 2, (width - placed_widths) // 2
    return np.stack([top, left, placed_heights, placed_widths], axis=1).astype(np.int32)


def middle_scale(scales: Scales) -> float:
    """Return the scale at which a network that is trained at a range of scales is used: 1 if it is one of them.

    Otherwise the geometric mean of the range, from which both ends are equally far.
    """
    least, most = scales
    return 1.0 if least <= 1 <= most else math.sqrt(least * most)


def scaled_crops(
    heights: Integers, widths: Integers, *, size: Size, scales: Floats
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return heights and widths of the boxes that an output of ``size`` shows at scales (B,); int64 (B,) each.

    A scale is output pixels per image pixel. A box is at most as large as its image.
    """
    wanted_heights, wanted_widths = _shown_at(scales, size)
    return np.clip(wanted_heights, 1, heights), np.clip(wanted_widths, 1, widths)


def scaled_placements(boxes: Boxes, *, size: Size, scales: Floats) -> Boxes:
    """Return where the boxes of :func:`scaled_crops` are put in the output: all of it, unless an image is too small.

    A side of a box that shows all that the image has, and would have to be longer, keeps its scale and is put into the
    middle of the output (up to rounding to whole pixels, at least 1).
    """
    places = []
    for box, wanted, side in zip((boxes[:, 2], boxes[:, 3]), _shown_at(scales, size), size, strict=True):
        places.append(np.where(box < wanted, np.clip(np.floor(box * scales + 0.5), 1, side), side))
    height, width = places
    return np.stack([(size[0] - height) // 2, (size[1] - width) // 2, height, width], axis=1).astype(np.int32)


def _shown_at(scales: Floats, size: Size) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return how many image pixels an output of ``size`` shows at scales (B,), each way, if the image has them."""
    height, width = (np.floor(side / scales + 0.5).astype(np.int64) for side in size)
    return height, width


@lru_cache(maxsize=4096)
def nearest_places(length: int, size: int) -> npt.NDArray[np.int64]:
    """Return which of ``length`` pixels each of ``size`` outputs takes: floor((i + 0.5) length / size), exactly."""
    places = (2 * np.arange(size, dtype=np.int64) + 1) * length // (2 * size)
    places.flags.writeable = False
    return places
