"""The loss: cross-entropy plus soft Dice, in fp32, over the valid images of a global batch.

Every term is a sum over images divided by the number of valid images in the *global* batch. So the losses of ranks, and
of the micro-batches of gradient accumulation, add up to what one process computes for the whole batch.
"""

import torch
from torch.nn import functional as F

# Added to numerator and denominator of Dice, in pixels: finite loss and gradient for an image that lacks a class.
_SMOOTH = 1.0


def segmentation_loss(
    logits: torch.Tensor,  # (B, 3, H, W), any float type; computed in fp32, because the sums of Dice overflow fp16
    truth: torch.Tensor,  # class indices 0..2, integers, (B, H, W)
    valid: torch.Tensor,  # bool (B,); False marks padding, which counts nowhere
    *,
    global_valid: int,  # valid images in the global batch (all ranks, all micro-batches), at least 1
    dice_weight: float = 1.0,  # the cross-entropy's is 1
    class_weights: torch.Tensor | None = None,  # float (3,), mean 1, of the cross-entropy
    label_smoothing: float = 0.0,  # share of each pixel's target that is spread over all classes
) -> torch.Tensor:
    """Return a batch's share of the global batch's mean loss, a float32 scalar; the shares of all its parts add up."""
    logits = logits.float()
    per_pixel = F.cross_entropy(
        logits, truth.long(), weight=class_weights, label_smoothing=label_smoothing, reduction="none"
    )
    per_image = per_pixel.mean(dim=(1, 2))
    if dice_weight:
        per_image = per_image + dice_weight * dice_loss(logits, truth)
    # torch.where rather than a product: not even a NaN in a padded image may reach the sum.
    return torch.where(valid, per_image, 0.0).sum() / global_valid


def dice_loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return one minus the soft Dice of each image, averaged over the classes: float32 (B,).

    Milletari et al. 2016 (V-Net), without the squares: ``(2 sum(p t) + s) / (sum(p) + sum(t) + s)``, s = 1 pixel.
    """
    probabilities = logits.float().softmax(dim=1)
    classes = torch.arange(logits.shape[1], device=truth.device, dtype=truth.dtype).view(1, -1, 1, 1)
    one_hot = (truth.unsqueeze(1) == classes).float()
    overlap = (probabilities * one_hot).sum(dim=(2, 3))
    total = probabilities.sum(dim=(2, 3)) + one_hot.sum(dim=(2, 3))
    return 1.0 - ((2.0 * overlap + _SMOOTH) / (total + _SMOOTH)).mean(dim=1)


def balanced_class_weights(class_pixels: tuple[int, int, int]) -> torch.Tensor:
    """Return weights (3,) with mean 1, proportional to the inverse square root of each class's share of the pixels."""
    counts = torch.tensor(class_pixels, dtype=torch.float64).clamp(min=1)
    weights = (counts / counts.sum()).rsqrt()
    return (weights / weights.mean()).float()
