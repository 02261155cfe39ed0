"""The loss: cross-entropy plus soft Dice, in fp32, over the valid images of a global batch.

Every term is a sum over images divided by the number of valid images in the *global* batch. So the losses of ranks, and
of the micro-batches of gradient accumulation, add up to what one process computes for the whole batch. Within an image
only its labelled pixels count; an image without any contributes 0.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from shards.format.labels import IGNORE

# Added to numerator and denominator of Dice, in pixels: finite loss and gradient for an image that lacks a class.
_SMOOTH = 1.0

# Cross-entropy starts near log(N), at most 5.5: training does not recover from more. Dice loss is at most 1.
_MAX_CROSS_ENTROPY = 100.0


def segmentation_loss(
    logits: torch.Tensor,  # (B, N, H, W), any float type; computed in fp32, because the sums of Dice overflow fp16
    truth: torch.Tensor,  # class indices 0..N-1 or IGNORE, integers, (B, H, W)
    valid: torch.Tensor,  # bool (B,); False marks padding, which counts nowhere
    *,
    global_valid: int | torch.Tensor,  # valid images in the global batch (all ranks and micro-batches), at least 1
    dice_weight: float = 1.0,  # the cross-entropy's is 1
    class_weights: torch.Tensor | None = None,  # float (N,), mean 1, of the cross-entropy
    label_smoothing: float = 0.0,  # share of each pixel's target that is spread over all classes
) -> torch.Tensor:
    """Return a batch's share of the global batch's mean loss, a float32 scalar; the shares of all its parts add up."""
    logits = logits.float()
    per_pixel = F.cross_entropy(
        logits,
        truth.long(),
        weight=class_weights,
        ignore_index=IGNORE,
        label_smoothing=label_smoothing,
        reduction="none",
    )
    labelled = (truth != IGNORE).sum(dim=(1, 2)).clamp(min=1)
    per_image = per_pixel.sum(dim=(1, 2)) / labelled
    if dice_weight:
        per_image = per_image + dice_weight * dice_loss(logits, truth)
    # torch.where rather than a product: not even a NaN in a padded image may reach the sum.
    return torch.where(valid, per_image, 0.0).sum() / global_valid


def loss_limit(*, dice_weight: float, class_weights: torch.Tensor | None) -> float:
    """Return the loss above which training has diverged; these arguments are those of :func:`segmentation_loss`."""
    heaviest = 1.0 if class_weights is None else max(1.0, float(class_weights.max()))
    return heaviest * _MAX_CROSS_ENTROPY + dice_weight


def dice_loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return one minus the soft Dice of each image, averaged over the classes: float32 (B,).

    Milletari et al. 2016 (V-Net), without the squares: ``(2 sum(p t) + s) / (sum(p) + sum(t) + s)``, s = 1 pixel, over
    the labelled pixels; 0 for an image without any.
    """
    one_hot = truth.unsqueeze(1) == torch.arange(logits.shape[1], device=truth.device, dtype=truth.dtype).view(
        1, -1, 1, 1
    )
    probabilities = logits.float().softmax(dim=1) * (truth != IGNORE).unsqueeze(1)
    overlap = (probabilities * one_hot).sum(dim=(2, 3))
    total = probabilities.sum(dim=(2, 3)) + one_hot.sum(dim=(2, 3))
    return 1.0 - ((2.0 * overlap + _SMOOTH) / (total + _SMOOTH)).mean(dim=1)


def balanced_class_weights(class_pixels: Sequence[int]) -> torch.Tensor:
    """Return weights (N,), float32, proportional to the inverse square root of each class's share of the pixels.

    Their mean is 1 over the classes that have pixels. A class without any has the weight 1: it must not take all.
    """
    counts = torch.tensor(class_pixels, dtype=torch.float64)
    occurs = counts > 0
    weights = torch.ones_like(counts)
    found = (counts[occurs] / counts.sum()).rsqrt()
    weights[occurs] = found / found.mean()
    return weights.float()
