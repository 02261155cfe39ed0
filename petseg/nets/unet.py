"""A residual U-Net (Ronneberger et al. 2015, with the residual blocks of He et al. 2015).

Each encoder level halves the resolution with a strided block, whose shortcut averages before it projects, so that no
pixel is dropped (ResNet-D, He et al. 2018). Each decoder level doubles it, merges the encoder's features of that
resolution and applies residual blocks. Any image size works: strided convolutions round up, and the decoder resizes to
the encoder's sizes.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from petseg.nets.model_config import ModelConfig, Norm
from petseg.nets.normalise import Normalise
from petseg.nets.sample_dropout import SampleDropout2d

_GROUP = 8


class ResidualBlock(nn.Module):
    """``ReLU(norm(conv(ReLU(norm(conv(x))))) + shortcut(x))``, 3x3 convolutions, the first with the stride.

    The last norm's scale starts at zero, so that a fresh block is its shortcut (Goyal et al. 2017).
    """

    def __init__(self, inputs: int, outputs: int, *, norm: Norm, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
        self.norm1 = make_norm(norm, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, kernel_size=3, padding=1, bias=False)
        self.norm2 = make_norm(norm, outputs)
        nn.init.zeros_(self.norm2.weight)
        shortcut: list[nn.Module] = []
        if stride > 1:
            shortcut.append(nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False))
        if inputs != outputs:
            shortcut.append(nn.Conv2d(inputs, outputs, kernel_size=1, bias=False))
            shortcut.append(make_norm(norm, outputs))
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, inputs, H, W) to (B, outputs, ceil(H / stride), ceil(W / stride))."""
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        return F.relu(y + self.shortcut(x), inplace=True)


class UpsamplingBlock(nn.Module):
    """One level of the decoder: double the resolution, merge the skip connection, apply residual blocks."""

    def __init__(self, inputs: int, skip: int, outputs: int, *, config: ModelConfig) -> None:
        super().__init__()
        self.add = config.join == "add"
        layers: list[nn.Module] = []
        if self.add:  # before the resolution is doubled, where it costs a quarter
            layers += [nn.Conv2d(inputs, skip, kernel_size=1, bias=False), make_norm(config.norm, skip)]
        if config.upsample == "transposed":
            channels = skip if self.add else inputs
            layers.append(nn.ConvTranspose2d(channels, channels, kernel_size=4, stride=2, padding=1))
        # The names rise, mix and UNetDecoder.rises stand in version 1's checkpoints.
        self.rise = nn.Sequential(*layers)
        self.mix = nn.Sequential(
            ResidualBlock(skip if self.add else inputs + skip, outputs, norm=config.norm),
            *(ResidualBlock(outputs, outputs, norm=config.norm) for _ in range(config.blocks - 1)),
        )

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Map coarse (B, inputs, h, w) and fine (B, skip, H, W) features to (B, outputs, H, W)."""
        x = self.rise(x)
        if x.shape[-2:] != skip.shape[-2:]:
            x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
        y: torch.Tensor = self.mix(x + skip if self.add else torch.cat([x, skip], dim=1))
        return y


class UNetDecoder(nn.Module):
    """Upsampling blocks from the coarsest features to the finest, for an encoder of any depth."""

    def __init__(self, encoder: Sequence[int], outputs: Sequence[int], config: ModelConfig) -> None:
        """Take the channels of the encoder's and of the decoder's levels, both finest first; the latter one shorter."""
        super().__init__()
        incoming = [encoder[-1], *reversed(outputs[1:])]
        self.rises = nn.ModuleList(
            UpsamplingBlock(below, skip, width, config=config)
            for below, skip, width in zip(incoming, reversed(encoder[:-1]), reversed(outputs), strict=True)
        )
        self.dropout = SampleDropout2d(config.dropout)

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Map the encoder's features, finest first, to (B, outputs[0], H, W) at the finest resolution."""
        x: torch.Tensor = self.dropout(features[-1])
        for block, skip in zip(self.rises, reversed(features[:-1]), strict=True):
            x = block(x, skip)
        return x


class ResidualUNet(nn.Module):
    """The network of ``--model unet``; see the module's docstring."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        widths, norm = config.widths, config.norm
        self.normalise = Normalise()
        self.scale = 2 if config.stem == "half" else 1  # input pixels per pixel of the finest level, each way
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], kernel_size=3, stride=self.scale, padding=1, bias=False),
            make_norm(norm, widths[0]),
            nn.ReLU(),
        )
        self.levels = nn.ModuleList(
            nn.Sequential(
                ResidualBlock(widths[max(level - 1, 0)], width, norm=norm, stride=2 if level else 1),
                *(ResidualBlock(width, width, norm=norm) for _ in range(config.blocks - 1)),
            )
            for level, width in enumerate(widths)
        )
        self.decoder = UNetDecoder(widths, widths[:-1], config)
        self.head = make_head(widths[0], classes=config.classes, scale=self.scale)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map images (B, 3, H, W) in 0..255 to logits (B, N, H, W) of N classes."""
        x = self.stem(self.normalise(image))
        features = []
        for level in self.levels:
            x = level(x)
            features.append(x)
        logits: torch.Tensor = self.head(self.decoder(features))
        if self.scale > 1:  # odd sides were rounded up by the stride
            logits = F.pixel_shuffle(logits, self.scale)[..., : image.shape[-2], : image.shape[-1]]
        return logits


def make_head(inputs: int, *, classes: int, scale: int) -> nn.Conv2d:
    """Return the last layer, which predicts ``scale`` x ``scale`` output pixels per pixel of its input."""
    # Blocks of 2 x 2 need a 3x3 kernel, which sees their neighbours, to meet without seams.
    return nn.Conv2d(inputs, classes * scale**2, kernel_size=2 * scale - 1, padding=scale - 1)


def make_norm(norm: Norm, channels: int) -> nn.BatchNorm2d | nn.GroupNorm:
    """Return a normalisation layer for ``channels`` channels."""
    return nn.GroupNorm(channels // _GROUP, channels) if norm == "group" else nn.BatchNorm2d(channels)
