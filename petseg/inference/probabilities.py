"""From images to class probabilities, optionally with flip TTA, and to probabilities at another resolution."""

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F

from petseg.host.device import Placement

_STRIP_PIXELS = 2_000_000


@torch.inference_mode()
def compute_logits(model: nn.Module, image: torch.Tensor, *, placement: Placement) -> torch.Tensor:
    """Return float32 logits (B, 3, H, W)."""
    with placement.autocast():
        logits = model(image.contiguous(memory_format=torch.channels_last))
    return logits.float()  # type: ignore[no-any-return]


@torch.inference_mode()
def class_probabilities(
    model: nn.Module, image: torch.Tensor, *, placement: Placement, flip_tta: bool = False
) -> torch.Tensor:
    """Return float32 (B, 3, H, W), summing to 1 over the classes, of uint8 or float images (B, 3, H, W) in 0..255.

    The model is in evaluation mode; ``flip_tta`` averages with the horizontally flipped images, in twice the time.
    """
    probabilities = compute_logits(model, image, placement=placement).softmax(dim=1)
    if flip_tta:
        flipped = compute_logits(model, image.flip(3), placement=placement).softmax(dim=1).flip(3)
        probabilities = (probabilities + flipped) / 2
    return probabilities


def resize_probabilities(coarse: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize probabilities (B, 3, h, w) bilinearly to (B, 3, height, width), antialiased when downscaling."""
    return torch.cat(list(resized_strips(coarse, height, width)), dim=2)


def resized_strips(coarse: torch.Tensor, height: int, width: int) -> Iterator[torch.Tensor]:
    """Yield the rows of the resized probabilities strip by strip, so that a huge image needs no huge tensor."""
    if height <= coarse.shape[2]:
        yield _interpolate(coarse, height, width)
        return
    wide = _interpolate(coarse, coarse.shape[2], width)
    rows = max(1, _STRIP_PIXELS // width)
    for start in range(0, height, rows):
        # Bilinear is separable: with pixel centres aligned, an output row lies between two rows of the coarse map.
        row = torch.arange(start, min(start + rows, height), device=coarse.device, dtype=torch.float64)
        position = ((row + 0.5) * (coarse.shape[2] / height) - 0.5).clamp(0, coarse.shape[2] - 1)
        above = position.long()
        below = (above + 1).clamp(max=coarse.shape[2] - 1)
        weight = (position - above).to(coarse.dtype).view(1, 1, -1, 1)
        yield torch.lerp(wide[:, :, above], wide[:, :, below], weight)


def _interpolate(coarse: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False, antialias=True)
