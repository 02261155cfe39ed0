"""The tutorial's network: a U-Net of three levels with 64, 128 and 256 channels.

3x3 convolutions, each followed by ReLU and then BatchNorm, 4x4 transposed convolutions of stride 2, skip connections.
Unlike the tutorial's, it ends in a plain 1x1 convolution: ReLU, BatchNorm and sigmoid before the cross-entropy would
bound the logits, and with them the lowest possible loss.
"""

import torch
from torch import nn
from torch.nn import functional as F

from petseg.nets.model_config import TUTORIAL_WIDTHS, ModelConfig
from petseg.nets.normalise import Normalise

_STRIDE = 4  # two levels of pooling


class TutorialUNet(nn.Module):
    """The network of ``--model tutorial``; see the module's docstring."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        fine, middle, coarse = TUTORIAL_WIDTHS
        self.normalise = Normalise()
        self.down1 = _convolutions(3, fine)
        self.down2 = _convolutions(fine, middle)
        self.bottom = _convolutions(middle, coarse)
        # The names rise1 and rise2 stand in version 1's checkpoints.
        self.rise2 = nn.ConvTranspose2d(coarse, middle, kernel_size=4, stride=2, padding=1)
        self.up2 = _convolutions(2 * middle, middle)
        self.rise1 = nn.ConvTranspose2d(middle, fine, kernel_size=4, stride=2, padding=1)
        self.up1 = _convolutions(2 * fine, fine)
        self.head = nn.Conv2d(fine, config.classes, kernel_size=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map images (B, 3, H, W) in 0..255 to logits (B, N, H, W) of N classes."""
        height, width = image.shape[-2:]
        # A size that is no multiple of the stride is padded at the right and at the bottom, and cropped at the end.
        padding = (0, -width % _STRIDE, 0, -height % _STRIDE)
        pixels = self.normalise(image)
        if any(padding):
            pixels = F.pad(pixels, padding, mode="replicate")
        fine = self.down1(pixels)
        middle = self.down2(F.max_pool2d(fine, 2))
        x = self.bottom(F.max_pool2d(middle, 2))
        x = self.up2(torch.cat([self.rise2(x), middle], dim=1))
        x = self.up1(torch.cat([self.rise1(x), fine], dim=1))
        logits: torch.Tensor = self.head(x)
        return logits[..., :height, :width]


def _convolutions(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, kernel_size=3, padding=1), nn.ReLU(inplace=True)]
        layers.append(nn.BatchNorm2d(outputs))
    return nn.Sequential(*layers)
