"""The first operations of a network: 8-bit pixels become zero-mean, unit-variance floats, and may be enlarged."""

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import nn
from torch.nn import functional as F

# Mean and standard deviation of ImageNet's red, green and blue, in units of an 8-bit pixel (0..255): the values
# that most pretrained encoders were trained with, and close enough to those of pet images.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


class Normalise(nn.Module):
    """``(pixel - mean) / std`` per channel, in fp32 whatever the precision of the rest.

    The constants are buffers, so checkpoints and exported models contain them.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    def set_constants(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take other constants, those that an encoder's weights were trained with: three each, in 0..255."""
        self.mean.copy_(torch.tensor(mean).view(1, 3, 1, 1))
        self.std.copy_(torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map uint8 or float (B, 3, H, W) in 0..255 to float32 of the same shape."""
        return (image.float() - self.mean) / self.std


def whole_ratio(scale: float) -> tuple[int, int]:
    """Return a scale as a ratio of whole numbers, the second of at most 100."""
    return Fraction(scale).limit_denominator(100).as_integer_ratio()


def enlarge(pixels: torch.Tensor, scale: float, *, multiple: int) -> torch.Tensor:
    """Enlarge (B, C, H, W) bilinearly, each side by at least ``scale``, to the next multiple of ``multiple`` pixels."""
    # Whole numbers that are positive: torch's exporter follows them with symbolic sides, and ONNX rounds towards zero.
    up, down = whole_ratio(scale)
    height, width = ((side * up + down * multiple - 1) // (down * multiple) * multiple for side in pixels.shape[-2:])
    return F.interpolate(pixels, size=(height, width), mode="bilinear", align_corners=False)
