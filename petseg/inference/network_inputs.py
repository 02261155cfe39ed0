"""How an image of any size becomes a network's input, as in training, and which part of that is the image."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from shards.errors import SampleError, UsageError, is_whole_number, option
from shards.format.geometry import PAD_COLOUR, Fit, Size, cover_sizes, fit_boxes, parse_size, placements, size_text

OVERLAP: Final = 0.25  # of windows, where none is given
MIN_WINDOW, MAX_WINDOW, MAX_OVERLAP = 16, 8192, 0.9
_MOST_INPUT, _MOST_LONGER = 1 << 24, 16  # pixels, or images of the network's size, of one input in `cover`
MIN_FACTOR, MAX_FACTOR, MAX_FACTORS = 0.1, 4.0, 16  # of --scales


def check_batch_size(images: Any) -> None:
    """Raise ``UsageError`` unless this is a number of images that can be predicted together."""
    if not is_whole_number(images, 1):
        raise UsageError(f"{option('batch_size', images)}: give a whole number from 1")


@dataclass(frozen=True, kw_only=True)
class InferenceOptions:
    """Which inputs are made of an image, whose probabilities are then averaged.

    Attributes:
        window: (height, width), in image pixels, of windows that slide over the image; each is predicted as an image
            of this size would be. ``auto``: as large as the network's input, so that pixels keep their size. None: the
            image is predicted as a whole, or ``auto`` if the network was trained on crops.
        overlap: the least share of its side that a window has in common with the next one.
        overlap_given: whether that was asked for, which makes sense with windows only.
        scales: factors of the size of the network's inputs.
        flip_tta: also predict each input horizontally flipped.
    """

    window: Size | Literal["auto"] | None = None
    overlap: float = OVERLAP
    scales: tuple[float, ...] = (1.0,)
    flip_tta: bool = False
    overlap_given: bool = False

    @classmethod
    def of(cls, *, window: Any, overlap: float | None, scales: Sequence[float], flip_tta: bool) -> "InferenceOptions":
        """Return checked options; ``window`` is also N or "HxW", and None for ``overlap`` is the default.

        Raises ``UsageError`` for a value that is impossible.
        """
        if window is not None and window != "auto":
            window = parse_size(window, name="window", least=MIN_WINDOW, most=MAX_WINDOW)
        given = overlap is not None
        if not isinstance(flip_tta, bool):
            raise UsageError(f"flip_tta must be True or False, not {flip_tta!r}")
        try:
            overlap = OVERLAP if overlap is None else float(overlap)
            factors = tuple(map(float, scales))
        except (TypeError, ValueError):
            raise UsageError(f"overlap {overlap!r}, scales {scales!r}: give a number, and a list of numbers") from None
        if not 0 <= overlap <= MAX_OVERLAP:
            raise UsageError(f"{option('overlap', overlap)}: give a share of a window's side from 0 to {MAX_OVERLAP:g}")
        if not 1 <= len(factors) <= MAX_FACTORS or not all(MIN_FACTOR <= each <= MAX_FACTOR for each in factors):
            raise UsageError(
                f"{option('scales', factors)}: give 1 to {MAX_FACTORS} factors from "
                f"{MIN_FACTOR:g} to {MAX_FACTOR:g}, such as 0.75,1,1.25"
            )
        return cls(window=window, overlap=overlap, scales=factors, flip_tta=flip_tta, overlap_given=given)

    def facts(self, window: Size | None) -> dict[str, Any]:
        """Return what was done as JSON values; ``window`` is the one that was used."""
        return {
            "window": None if window is None else list(window),
            "overlap": None if window is None else self.overlap,
            "scales": list(self.scales),
            "flip_tta": self.flip_tta,
        }

    def text(self, window: Size | None) -> str:
        """Return what differs from predicting whole images once: ``, in windows of 512 that overlap by 0.25``."""
        parts = [] if window is None else [f"in windows of {size_text(window)} pixels that overlap by {self.overlap:g}"]
        if self.scales != (1.0,):
            parts.append(f"at scales {', '.join(f'{each:g}' for each in self.scales)}")
        if self.flip_tta:
            parts.append("with flip TTA")
        return "".join(f", {part}" for part in parts)


WHOLE_IMAGES: Final = InferenceOptions()


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
        size = _cover_input((image.height, image.width), size)
    top, left, height, width = placements(whole, size=size, fit=fit)[0].tolist()
    # Antialiased, as the loader does it.
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    if (height, width) != size:
        canvas = np.full((*size, 3), PAD_COLOUR, np.uint8)
        canvas[top : top + height, left : left + width] = pixels
        pixels = canvas
    return NetworkInput(pixels, slice(top, top + height), slice(left, left + width))


def expect_moderate(image_size: Size, *, size: Size) -> None:
    """Raise ``SampleError`` if an image is so long and thin that its input in ``cover`` would take gigabytes."""
    height, width = _cover_input(image_size, size)
    if height * width > max(_MOST_INPUT, _MOST_LONGER * size[0] * size[1]):
        raise SampleError(
            f"the image, {size_text(image_size)} pixels, would be enlarged to {height} x {width} (the "
            f"run's {option('fit', 'cover')}); crop it, or predict it with {option('window')}"
        )


def scaled_input(image: Image.Image, *, scale: float) -> NetworkInput:
    """Return the input that shows a whole RGB image at a scale, output pixels per image pixel, as random crops do."""
    size = scaled_size((image.height, image.width), scale)
    pixels = image if scale == 1 else image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return NetworkInput(np.asarray(pixels), slice(0, size[0]), slice(0, size[1]))


def scaled_size(size: Size, factor: float) -> Size:
    """Return a size (height, width) multiplied by a factor, rounded to whole pixels, at least 1."""
    height, width = (max(1, int(side * factor + 0.5)) for side in size)
    return height, width


def same_sizes(inputs: Sequence[NetworkInput]) -> Iterable[list[int]]:
    """Return the positions of the inputs that can be a batch, each of one size."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for position, each in enumerate(inputs):
        groups.setdefault(each.pixels.shape, []).append(position)
    return groups.values()


def _cover_input(image_size: Size, size: Size) -> Size:
    heights, widths = cover_sizes(np.array([image_size[0]]), np.array([image_size[1]]), size)
    height, width = (
        max(side, (2 * whole * side + box) // (2 * box))
        for side, whole, box in zip(size, image_size, (int(heights[0]), int(widths[0])), strict=True)
    )
    return height, width
