"""From images to class probabilities, optionally with flip TTA, and to probabilities at another resolution."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from petseg.host.device import Placement
from petseg.inference.network_inputs import scaled_size
from shards.errors import PetsegError, listed, option
from shards.format.labels import Labels
from shards.format.overlays import occurring

_STRIP_VALUES = 6_000_000  # 24 MB, and a few times that while they are computed


def not_finite(placement: Placement) -> PetsegError:
    """Return the error for outputs of a network that are NaN or infinite: no class could be taken from them."""
    advice = f", or too large for {option('precision', 'fp16')}" if placement.precision == "fp16" else ""
    return PetsegError(
        f"the network's outputs are not finite (NaN or infinity): its weights are damaged{advice}; take another "
        "checkpoint of the run, or train again"
    )


@dataclass(frozen=True)
class Prediction:
    """A network's prediction for one image of H x W pixels.

    Attributes:
        index: predicted class indices 0..N-1: uint8 (H, W).
        coarse: probabilities at the network's size, float32 (N, h, w), of the image without padding; of a prediction
            in windows those of every n-th pixel each way, n the least for which there are at most 2**25 values.
        labels: the classes.
    """

    index: npt.NDArray[np.uint8]
    coarse: torch.Tensor
    labels: Labels

    def __repr__(self) -> str:
        height, width = self.index.shape
        found = listed(self.labels.names[index] for index in occurring(self.index))
        return f"<Prediction: {height} x {width} pixels of {found}>"

    @property
    def mask(self) -> npt.NDArray[np.uint8]:
        """The prediction as the dataset's own masks have it: its values, uint8 (H, W), or RGB, uint8 (H, W, 3)."""
        table = self.labels.source_palette if self.labels.rgb else self.labels.source_values
        return table[self.index]

    @property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """Float32 (N, H, W), in class order, summing to 1; enlarged at each access, 4 N bytes per pixel."""
        height, width = self.index.shape
        return resize_probabilities(self.coarse[None], height, width)[0].cpu().numpy()

    def probability_rows(self) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the same class by class, some rows (h, W) at a time, from top to bottom."""
        height, width = self.index.shape
        for plane in self.coarse:
            for strip in resized_strips(plane[None, None], height, width):
                yield strip[0, 0].cpu().numpy()


@torch.inference_mode()
def compute_logits(model: nn.Module, image: torch.Tensor, *, placement: Placement) -> torch.Tensor:
    """Return float32 logits (B, N, H, W)."""
    with placement.autocast():
        logits = model(image.contiguous(memory_format=torch.channels_last))
    return logits.float()  # type: ignore[no-any-return]


@torch.inference_mode()
def class_probabilities(
    model: nn.Module,
    image: torch.Tensor,
    *,
    placement: Placement,
    flip_tta: bool = False,
    scales: Sequence[float] = (1.0,),
) -> torch.Tensor:
    """Return float32 (B, N, H, W), summing to 1 over the classes, of uint8 or float images (B, 3, H, W) in 0..255.

    The model is in evaluation mode; ``flip_tta`` averages with the horizontally flipped images, in twice the time, and
    ``scales`` over images resized by these factors, antialiased.
    """
    if tuple(scales) != (1.0,):
        height, width = image.shape[2:]
        total = torch.zeros((), device=image.device)
        for factor in scales:
            size = scaled_size((height, width), factor)
            resized = image if size == (height, width) else _interpolate(image.float(), *size)
            once = class_probabilities(model, resized, placement=placement, flip_tta=flip_tta)
            total = total + (once if size == (height, width) else resize_probabilities(once, height, width))
        return total / len(scales)
    probabilities = compute_logits(model, image, placement=placement).softmax(dim=1)
    if flip_tta:
        flipped = compute_logits(model, image.flip(3), placement=placement).softmax(dim=1).flip(3)
        probabilities = (probabilities + flipped) / 2
    return probabilities


def resize_probabilities(coarse: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize probabilities (B, N, h, w) bilinearly to (B, N, height, width), antialiased when downscaling."""
    return torch.cat(list(resized_strips(coarse, height, width)), dim=2)


def resized_strips(coarse: torch.Tensor, height: int, width: int) -> Iterator[torch.Tensor]:
    """Yield the rows of the resized probabilities strip by strip, so that a huge image needs no huge tensor."""
    # Bilinear is separable: first rows are merged, where there are too many, then each strip is made from its own.
    if height < coarse.shape[2]:
        coarse = _interpolate(coarse, height, coarse.shape[3])
    step = max(1, _STRIP_VALUES // (coarse.shape[0] * coarse.shape[1] * width))
    last = coarse.shape[2] - 1
    for start in range(0, height, step):
        # With pixel centres aligned, an output row lies between two rows of the coarse map.
        row = torch.arange(start, min(start + step, height), dtype=torch.float64)
        position = ((row + 0.5) * (coarse.shape[2] / height) - 0.5).clamp(0, last)
        above = position.long()
        first, end = int(above[0]), min(int(above[-1]) + 2, last + 1)
        wide = _interpolate(coarse[:, :, first:end], end - first, width)
        weight = (position - above).to(coarse.dtype).to(coarse.device).view(1, 1, -1, 1)
        above = (above - first).to(coarse.device)
        below = (above + 1).clamp(max=end - first - 1)
        yield torch.lerp(wide[:, :, above], wide[:, :, below], weight)


def _interpolate(coarse: torch.Tensor, height: int, width: int) -> torch.Tensor:
    if width == 1:  # torch takes other strides of one pixel width for channels_last, and mixes the classes up
        coarse = coarse.contiguous(memory_format=torch.channels_last)
    return F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False, antialias=True)
