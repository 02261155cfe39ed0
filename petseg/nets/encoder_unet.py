"""A U-Net whose encoder is any of timm's networks: one decoder for any channels and strides.

Each level of the encoder's features is mapped by a 1x1 convolution to the width of the decoder's level, as in a feature
pyramid network (Lin et al. 2017), so that the decoder costs the same below any encoder. The resolutions that an encoder
lacks (those of 4 x 4 patches have nothing finer than a quarter) come from a few convolutions of the image.
"""

from typing import Self

import torch
from torch import nn
from torch.nn import functional as F

from petseg.nets.model_config import ModelConfig
from petseg.nets.normalise import Normalise, enlarge
from petseg.nets.timm_encoders import channels_first, create_encoder, feature_levels, parameters_of_levels
from petseg.nets.unet import ResidualBlock, UNetDecoder, make_head, make_norm
from shards.errors import UsageError, counted, option

# By stride in pixels. Checkpoints rely on them.
_WIDTHS = {1: 16, 2: 24, 4: 48, 8: 96, 16: 160, 32: 256}


class EncoderUNet(nn.Module):
    """The network of ``--encoder NAME``; see the module's docstring."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.normalise = Normalise()
        self.scale = 2 if config.stem == "half" else 1  # input pixels per pixel of the finest level, each way
        self.encoder = create_encoder(config.encoder)
        self.frozen = False
        self._held = set[nn.Parameter]()
        levels = [level for level in feature_levels(config.encoder, self.encoder) if level.stride >= self.scale]
        self.outputs = [level.output for level in levels]
        self.coarsest = levels[-1].stride
        # The image is padded to a multiple of it, unless it is enlarged to such a multiple.
        self.stride = self.coarsest if config.input_scale == 1 else 1
        own = [1 << bits for bits in range(self.scale.bit_length() - 1, levels[0].stride.bit_length() - 1)]
        strides = own + [level.stride for level in levels[:-1]]
        widths = config.decoder_widths or tuple(_WIDTHS[stride] for stride in strides)
        if len(widths) != len(strides):
            raise UsageError(
                f"{option('decoder_widths')} names {counted(len(widths), 'level')}; with "
                f"{option('encoder', config.encoder)} and {option('stem', config.stem)} the decoder has "
                f"{len(strides)}, at strides of {', '.join(map(str, strides))} pixels"
            )
        self.shallow = nn.ModuleList(
            ResidualBlock(inputs, width, norm=config.norm, stride=2 if number or self.scale == 2 else 1)
            for number, (inputs, width) in enumerate(zip((3, *widths), widths[: len(own)], strict=False))
        )
        self.laterals = nn.ModuleList(
            nn.Sequential(nn.Conv2d(level.channels, width, kernel_size=1, bias=False), make_norm(config.norm, width))
            for level, width in zip(levels[:-1], widths[len(own) :], strict=True)
        )
        self.decoder = UNetDecoder([*widths, levels[-1].channels], widths, config)
        self.head = make_head(widths[0], classes=config.classes, scale=self.scale)

    def hold_encoder(self, stride: int) -> None:
        """Never train what the encoder's features up to a stride in pixels depend on; 0: train all of it."""
        names = parameters_of_levels(self.config.encoder, stride=stride)
        self._held = {parameter for name, parameter in self.encoder.named_parameters() if name in names}
        self.freeze_encoder(self.frozen)

    def freeze_encoder(self, frozen: bool) -> None:
        """Keep all of the encoder as it is for now, its running statistics too; or train it, but for what is held."""
        self.frozen = frozen
        for parameter in self.encoder.parameters():
            parameter.requires_grad_(not frozen and parameter not in self._held)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As of every module; what is not trained of the encoder stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        elif mode and self._held:
            for module in self.encoder.modules():
                own = list(module.parameters(recurse=False))
                if own and not any(parameter.requires_grad for parameter in own):
                    module.eval()
        return self

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map images (B, 3, H, W) in 0..255 to logits (B, N, H, W) of N classes."""
        height, width = image.shape[-2:]
        pixels = self.normalise(image)
        if self.config.input_scale > 1:
            pixels = enlarge(pixels, self.config.input_scale, multiple=self.coarsest)
        elif height % self.stride or width % self.stride:  # at the right and at the bottom; cropped at the end
            pixels = F.pad(pixels, (0, -width % self.stride, 0, -height % self.stride), mode="replicate")
        coded = self._encode(pixels)
        features, x = [], pixels
        for block in self.shallow:
            x = block(x)
            features.append(x)
        features += [lateral(feature) for lateral, feature in zip(self.laterals, coded[:-1], strict=True)]
        logits: torch.Tensor = self.head(self.decoder([*features, coded[-1]]))
        if self.scale > 1:
            logits = F.pixel_shuffle(logits, self.scale)
        if self.config.input_scale > 1:
            return F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)
        return logits[..., :height, :width]

    def _encode(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """Return the encoder's features, finest first, (B, C, H / stride, W / stride) each."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            found = self.encoder(pixels)
        return [channels_first(self.encoder, found[output]) for output in self.outputs]
