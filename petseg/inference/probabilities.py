"""From pictures to class probabilities, optionally averaged with those of the mirror image."""

from __future__ import annotations

import torch
from torch import nn

from petseg.host.device import Placement


@torch.inference_mode()
def class_probabilities(
    model: nn.Module, image: torch.Tensor, *, placement: Placement, mirror: bool = False
) -> torch.Tensor:
    """Return float32 (B, 3, H, W), summing to 1 over the classes, for pictures (B, 3, H, W) in 0..255.

    Args:
        model: in evaluation mode.
        image: uint8 or float, on the model's device.
        placement: decides the precision.
        mirror: average with the mirrored picture's prediction, mirrored back; costs twice the time.
    """
    probabilities = compute_logits(model, image, placement=placement).softmax(dim=1)
    if mirror:
        flipped = compute_logits(model, image.flip(3), placement=placement).softmax(dim=1).flip(3)
        probabilities = (probabilities + flipped) / 2
    return probabilities


@torch.inference_mode()
def compute_logits(model: nn.Module, image: torch.Tensor, *, placement: Placement) -> torch.Tensor:
    """Return float32 logits (B, 3, H, W)."""
    with placement.autocast():
        logits = model(image.contiguous(memory_format=torch.channels_last))
    return logits.float()  # type: ignore[no-any-return]
