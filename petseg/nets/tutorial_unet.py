"""The tutorial's network: a U-Net of three levels, 64-128-256 channels.

3x3 convolutions, each followed by ReLU and BatchNorm (in that order, as the tutorial has it), 4x4 transposed
convolutions of stride 2, skip connections. One thing is mended: it ends in a plain 1x1 convolution that gives logits.
The tutorial's ReLU, BatchNorm and sigmoid before the cross-entropy bound the logits, and so put a floor under the loss.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from petseg.nets.model_config import CLASS_COUNT, TUTORIAL_WIDTHS
from petseg.nets.normalise import Normalise

_STRIDE = 4  # two levels of pooling


class TutorialUNet(nn.Module):
    """Three levels down, three up; see the module's docstring."""

    def __init__(self) -> None:
        super().__init__()
        fine, middle, coarse = TUTORIAL_WIDTHS
        self.normalise = Normalise()
        self.down1 = _convolutions(3, fine)
        self.down2 = _convolutions(fine, middle)
        self.bottom = _convolutions(middle, coarse)
        self.rise2 = nn.ConvTranspose2d(coarse, middle, kernel_size=4, stride=2, padding=1)
        self.up2 = _convolutions(2 * middle, middle)
        self.rise1 = nn.ConvTranspose2d(middle, fine, kernel_size=4, stride=2, padding=1)
        self.up1 = _convolutions(2 * fine, fine)
        self.head = nn.Conv2d(fine, CLASS_COUNT, kernel_size=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map pictures (B, 3, H, W) in 0..255 to logits (B, 3, H, W)."""
        height, width = image.shape[-2:]
        # A size that two halvings do not divide is padded at its right and lower edge, and cut again at the end.
        padding = (0, -width % _STRIDE, 0, -height % _STRIDE)
        pixels = self.normalise(image)
        if any(padding):
            pixels = F.pad(pixels, padding, mode="replicate")
        fine = self.down1(pixels)
        middle = self.down2(F.max_pool2d(fine, 2))
        bottom = self.bottom(F.max_pool2d(middle, 2))
        rising = self.up2(torch.cat([self.rise2(bottom), middle], dim=1))
        rising = self.up1(torch.cat([self.rise1(rising), fine], dim=1))
        logits: torch.Tensor = self.head(rising)
        return logits[..., :height, :width]


def _convolutions(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.BatchNorm2d(outputs),
        nn.Conv2d(outputs, outputs, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.BatchNorm2d(outputs),
    )
