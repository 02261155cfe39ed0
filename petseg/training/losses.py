"""The loss: cross-entropy plus soft Dice, in fp32, over the valid pictures of a global batch.

Every term is a sum over pictures, divided by the number of valid pictures in the *global* batch. So the losses of
ranks, or of the parts of an accumulated batch, add up to exactly what one process with the whole batch would get.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

# Added above and below the Dice fraction, in pixels: a picture without a class gives a finite loss and gradient.
_SMOOTH = 1.0


def segmentation_loss(
    logits: torch.Tensor,
    truth: torch.Tensor,
    valid: torch.Tensor,
    *,
    global_valid: int,
    dice_weight: float = 1.0,
    class_weights: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Return this part's share of the global batch's mean loss; the shares of all parts add up to it.

    Args:
        logits: (B, 3, H, W), any float type; computed in fp32, because the sums of Dice overflow fp16.
        truth: class indices 0..2, integers, (B, H, W).
        valid: bool (B,); False pictures are padding and count nowhere.
        global_valid: number of valid pictures in the global batch (all ranks, all parts), at least 1.
        dice_weight: weight of the Dice term beside the cross-entropy's 1.
        class_weights: float (3,), mean 1, or None; for the cross-entropy.
        label_smoothing: share of each pixel's truth that is spread over all classes.

    Returns:
        A scalar, float32.
    """
    logits = logits.float()
    per_pixel = F.cross_entropy(
        logits, truth.long(), weight=class_weights, label_smoothing=label_smoothing, reduction="none"
    )
    per_picture = per_pixel.mean(dim=(1, 2))
    if dice_weight:
        per_picture = per_picture + dice_weight * dice_loss(logits, truth)
    # where, not a product: whatever stands in a padded picture, even a NaN, must not reach the sum.
    return torch.where(valid, per_picture, 0.0).sum() / global_valid


def dice_loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return one minus the soft Dice of each picture, averaged over its classes: float32 (B,).

    Milletari et al. 2016 (V-Net), without the squares: ``(2 sum(p t) + s) / (sum(p) + sum(t) + s)``, s = 1 pixel.
    """
    probabilities = logits.float().softmax(dim=1)
    classes = torch.arange(logits.shape[1], device=truth.device, dtype=truth.dtype).view(1, -1, 1, 1)
    one_hot = (truth.unsqueeze(1) == classes).float()
    overlap = (probabilities * one_hot).sum(dim=(2, 3))
    total = probabilities.sum(dim=(2, 3)) + one_hot.sum(dim=(2, 3))
    return 1.0 - ((2.0 * overlap + _SMOOTH) / (total + _SMOOTH)).mean(dim=1)


def balanced_class_weights(class_pixels: tuple[int, int, int]) -> torch.Tensor:
    """Return weights (3,) of mean 1 in proportion to the inverse root of each class's share of the pixels.

    The root is the usual middle way between no weights and the full inverse, which overrates the rare class.
    """
    counts = torch.tensor(class_pixels, dtype=torch.float64).clamp(min=1)
    weights = (counts / counts.sum()).rsqrt()
    return (weights / weights.mean()).float()
