"""How an image of any size becomes a network's input, as in training, and which part of that is the image."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from shards.format.geometry import PAD_COLOUR, Fit, Size, cover_sizes, fit_boxes, placements


@dataclass(frozen=True)
class NetworkInput:
    """A network's input: uint8 (h, w, 3), and the rows and columns of it that show the image."""

    pixels: npt.NDArray[np.uint8]
    rows: slice
    columns: slice


def network_input(image: Image.Image, *, size: Size, fit: Fit) -> NetworkInput:
    """Return the input that shows a whole RGB image as training at this size (height, width) and fit showed its part.

    ``stretch``: resized to ``size``. ``contain``: resized and letterboxed. ``cover``: resized by the factor by which
    training resizes the box that it cuts out; the input is larger than ``size`` unless the aspect ratios are equal.
    """
    whole = fit_boxes(np.array([image.height]), np.array([image.width]), size=size, fit="stretch")
    if fit == "cover":
        size = _cover_input(image, size)
    top, left, height, width = placements(whole, size=size, fit=fit)[0].tolist()
    # Antialiased, as the loader does it.
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    if (height, width) != size:
        canvas = np.full((*size, 3), PAD_COLOUR, np.uint8)
        canvas[top : top + height, left : left + width] = pixels
        pixels = canvas
    return NetworkInput(pixels, slice(top, top + height), slice(left, left + width))


def same_sizes(inputs: Sequence[NetworkInput]) -> Iterable[list[int]]:
    """Return the positions of the inputs that can be a batch, each of one size."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for position, each in enumerate(inputs):
        groups.setdefault(each.pixels.shape, []).append(position)
    return groups.values()


def _cover_input(image: Image.Image, size: Size) -> Size:
    heights, widths = cover_sizes(np.array([image.height]), np.array([image.width]), size)
    height, width = (
        max(side, (2 * whole * side + box) // (2 * box))
        for side, whole, box in zip(size, (image.height, image.width), (int(heights[0]), int(widths[0])), strict=True)
    )
    return height, width
