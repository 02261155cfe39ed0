"""Windows that slide over an image of any size, with blended edges, in memory that does not grow with its height.

The recipe is nnU-Net's (Isensee et al., 2021, "nnU-Net: a self-configuring method"; ``sliding_window_prediction``):
windows at evenly spaced places whose distance is at most (1 - overlap) of their side, weighted by a Gaussian around
their middle with a standard deviation of an eighth of their side. Here probabilities are averaged rather than logits.

The sum of the weights of windows on a grid is the product of one sum for the rows and one for the columns. So each
window's weights are divided by these sums beforehand, and add up to 1 everywhere: nothing is divided at the end, and
a pixel is finished as soon as the last window that shows it is. Only rows that the next row of windows shows, too, are
kept: overlap x window x image width values of each class.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from shards.format.geometry import PAD_COLOUR, Size

_DEVIATION = 1 / 8  # of a window's side
_PIXELS_AT_ONCE = 1 << 19  # of windows: with 32 channels 67 MB for each of a network's intermediate results
_VALUES_AT_ONCE = 1 << 24  # of their probabilities

# Of some windows of one size, uint8 RGB images: their probabilities, float32 (B, N, height, width), one per pixel.
PredictWindows = Callable[[Sequence[Image.Image]], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """The places of windows along one side of an image, pixels.

    Attributes:
        length: of the image.
        window: side of a window. A longer one than the image is filled up with padding before and after it.
        starts: first pixels of the windows, ascending; the first window begins and the last ends with the image.
    """

    length: int
    window: int
    starts: tuple[int, ...]

    @classmethod
    def of(cls, length: int, *, window: int, overlap: float) -> "Axis":
        """Return the fewest evenly spaced windows of which neighbours share at least ``overlap`` of a window."""
        room = length - window
        if room <= 0:
            return cls(length=length, window=window, starts=(-(-room // 2),))
        step = max(1, math.floor(window * (1 - overlap) + 1e-9))
        last = -(-room // step)
        return cls(
            length=length, window=window, starts=tuple((2 * n * room + last) // (2 * last) for n in range(last + 1))
        )

    @property
    def weights(self) -> list[npt.NDArray[np.float32]]:
        """The weights of each window's pixels; those of the windows that show a pixel add up to 1."""
        middle = (np.arange(self.window) + 0.5) / self.window - 0.5
        bell = np.exp(-0.5 * (middle / _DEVIATION) ** 2)
        first = self.starts[0]
        total = np.zeros(self.starts[-1] + self.window - first)
        for start in self.starts:
            total[start - first : start - first + self.window] += bell
        return [(bell / total[at : at + self.window]).astype(np.float32) for at in (s - first for s in self.starts)]

    @property
    def ends(self) -> list[int]:
        """Where each window's pixels end that no later window shows: where the next one begins."""
        return [*self.starts[1:], self.starts[-1] + self.window]


@dataclass(frozen=True)
class Block:
    """Finished probabilities, float32 (N, h, w), of a part of the image that begins at a row and a column."""

    top: int
    left: int
    values: torch.Tensor


def slide(
    image: Image.Image,
    predict: PredictWindows,
    *,
    window: Size,
    overlap: float,
    at_once: int,
) -> Iterator[Block]:
    """Yield the blended probabilities of an RGB image block by block; the blocks cover each pixel once.

    ``at_once`` windows are given to ``predict`` together. A block is valid until the next one.
    """
    rows = Axis.of(image.height, window=window[0], overlap=overlap)
    columns = Axis.of(image.width, window=window[1], overlap=overlap)
    places = [(top, left) for top in rows.starts for left in columns.starts]
    results = _predicted(image, predict, places, size=window, at_once=at_once)
    kept: torch.Tensor | None = None  # of rows that earlier rows of windows have shown, (N, rows, columns)
    shared = max([window[0] - (below - above) for above, below in pairwise(rows.starts)], default=0)
    before = 0  # how many rows of ``kept`` are in use
    for top, next_top, down in zip(rows.starts, rows.ends, rows.weights, strict=True):
        finished = next_top - top
        pending: torch.Tensor | None = None  # of this row of windows, from ``left`` on
        for left, next_left, across in zip(columns.starts, columns.ends, columns.weights, strict=True):
            values = next(results)
            weights = torch.from_numpy(down[:, None] * across[None]).to(values.device)
            values = values * weights
            if pending is not None:
                values[:, :, : pending.shape[2]] += pending
            done = next_left - left
            pending = values[:, :, done:].clone()
            values = values[:, :, :done]
            place = slice(left - columns.starts[0], next_left - columns.starts[0])
            if before and kept is not None:
                values[:, :before] += kept[:, :before, place]
            if finished < window[0]:
                if kept is None:
                    width = columns.ends[-1] - columns.starts[0]
                    kept = torch.zeros(values.shape[0], shared, width, device=values.device)
                kept[:, : window[0] - finished, place] = values[:, finished:]
            yield _inside(image, top, left, values[:, :finished])
        before = window[0] - finished


def is_padded(size: Size, window: Size) -> bool:
    """Return whether an image is smaller than a window on a side, and so padded to it; both are (height, width)."""
    return size[0] < window[0] or size[1] < window[1]


def windows_at_once(window: Size, *, classes: int, batch_size: int, on_gpu: bool) -> int:
    """Return how many windows to predict together: ``batch_size``, or as many as take a few hundred megabytes.

    On a CPU larger batches than that are no faster.
    """
    pixels, more = window[0] * window[1], 16 if on_gpu else 1
    return max(1, min(batch_size, more * _PIXELS_AT_ONCE // pixels, more * _VALUES_AT_ONCE // (pixels * classes)))


def _predicted(
    image: Image.Image, predict: PredictWindows, places: Sequence[Size], *, size: Size, at_once: int
) -> Iterator[torch.Tensor]:
    """Yield the probabilities of each window, (N, height, width), in order."""
    for first in range(0, len(places), at_once):
        yield from predict([_cut(image, *place, size) for place in places[first : first + at_once]])


def _cut(image: Image.Image, top: int, left: int, size: Size) -> Image.Image:
    """Return the window of the image that begins at a row and a column, padded where the image does not reach."""
    height, width = size
    if top >= 0 and left >= 0 and top + height <= image.height and left + width <= image.width:
        return image.crop((left, top, left + width, top + height))
    window = Image.new("RGB", (width, height), PAD_COLOUR)
    part = (max(0, left), max(0, top), min(image.width, left + width), min(image.height, top + height))
    window.paste(image.crop(part), (part[0] - left, part[1] - top))
    return window


def _inside(image: Image.Image, top: int, left: int, values: torch.Tensor) -> Block:
    """Return values without those of padding around the image."""
    rows = slice(max(0, -top), image.height - top)
    columns = slice(max(0, -left), image.width - left)
    return Block(max(0, top), max(0, left), values[:, rows, columns])
