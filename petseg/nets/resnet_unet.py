"""Version 1's U-Net with one of torchvision's ResNets as its encoder, so that its checkpoints go on working.

``--encoder torchvision/resnet18``; version 1 called it ``resnet18``, which is now timm's, in the network of
:mod:`petseg.nets.encoder_unet`.
"""

from typing import Any

import torch
from torch import nn

from petseg.nets.model_config import TORCHVISION, ModelConfig
from petseg.nets.normalise import Normalise
from petseg.nets.unet import ResidualBlock, UNetDecoder

_FULL_WIDTH = 16  # channels of the shallow branch that keeps the full resolution for the border
_DECODER_WIDTHS = (16, 32, 64, 128, 256)


class ResNetUNet(nn.Module):
    """Features at 1, 1/2, 1/4, 1/8, 1/16 and 1/32 of the resolution, then the decoder of :mod:`petseg.nets.unet`."""

    def __init__(self, config: ModelConfig) -> None:
        from torchvision import models  # slow to import, and needed by no other network

        super().__init__()
        resnet: Any = getattr(models, config.encoder.removeprefix(TORCHVISION))(weights=None)
        self.normalise = Normalise()
        self.full = ResidualBlock(3, _FULL_WIDTH, norm=config.norm)
        self.stem = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu)
        self.pool = resnet.maxpool
        self.levels = nn.ModuleList([resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4])
        coarsest = resnet.fc.in_features  # each finer layer has half the channels
        channels = [_FULL_WIDTH, resnet.bn1.num_features, coarsest // 8, coarsest // 4, coarsest // 2, coarsest]
        self.decoder = UNetDecoder(channels, _DECODER_WIDTHS, config)
        self.head = nn.Conv2d(_DECODER_WIDTHS[0], config.classes, kernel_size=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map images (B, 3, H, W) in 0..255 to logits (B, N, H, W) of N classes."""
        pixels = self.normalise(image)
        features = [self.full(pixels), self.stem(pixels)]
        x = self.pool(features[-1])
        for level in self.levels:
            x = level(x)
            features.append(x)
        logits: torch.Tensor = self.head(self.decoder(features))
        return logits
