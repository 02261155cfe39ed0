"""A U-Net whose encoder is a torchvision ResNet, with its ImageNet weights if asked for."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from petseg.nets.model_config import CLASS_COUNT, ModelConfig
from petseg.nets.normalise import Normalise
from petseg.nets.unet import Decoder, ResidualBlock
from shards.errors import PetsegError

_FULL_WIDTH = 16  # channels of the shallow branch that keeps the full resolution for the border
_DECODER_WIDTHS = (16, 32, 64, 128, 256)


class EncoderUNet(nn.Module):
    """Features at 1, 1/2, 1/4, 1/8, 1/16 and 1/32 of the resolution, then the same decoder as our own U-Net."""

    def __init__(self, config: ModelConfig, *, load_pretrained: bool) -> None:
        super().__init__()
        resnet = _resnet(config, load_pretrained=load_pretrained)
        self.normalise = Normalise()
        self.full = ResidualBlock(3, _FULL_WIDTH, norm=config.norm)
        self.stem = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu)
        self.pool = resnet.maxpool
        self.levels = nn.ModuleList([resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4])
        with torch.no_grad():
            training = self.training
            self.eval()
            channels = [x.shape[1] for x in self._features(torch.zeros(1, 3, 64, 64))]
            self.train(training)
        self.decoder = Decoder(channels, _DECODER_WIDTHS, config)
        self.head = nn.Conv2d(_DECODER_WIDTHS[0], CLASS_COUNT, kernel_size=1)

    def _features(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        features = [self.full(pixels), self.stem(pixels)]
        x = self.pool(features[-1])
        for level in self.levels:
            x = level(x)
            features.append(x)
        return features

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map pictures (B, 3, H, W) in 0..255 to logits (B, 3, H, W)."""
        logits: torch.Tensor = self.head(self.decoder(self._features(self.normalise(image))))
        return logits


def _resnet(config: ModelConfig, *, load_pretrained: bool) -> Any:
    from torchvision import models

    try:
        weights = "DEFAULT" if config.pretrained and load_pretrained else None
        network = getattr(models, config.encoder)(weights=weights)
    except (OSError, RuntimeError) as error:
        # torchvision fetches the weights on first use; URLError is an OSError, a bad checksum a RuntimeError.
        raise PetsegError(
            f"the ImageNet weights of {config.encoder} cannot be had ({error}); put them into "
            "$TORCH_HOME/hub/checkpoints, or leave --pretrained out"
        ) from None
    return network
