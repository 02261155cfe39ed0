"""Builds a network from a :class:`ModelConfig`.

Every network takes uint8 or float images (B, 3, H, W) in 0..255, of any H and W of at least 32 pixels, and returns
float logits (B, N, H, W) of N classes in the order of the labels. Its first layer is its normalisation.
"""

from typing import cast, get_args

import torch
from torch import nn

from petseg.nets.encoder_unet import EncoderUNet
from petseg.nets.model_config import NO_ENCODER, TORCHVISION, ModelConfig, Name, default_model_config
from petseg.nets.resnet_unet import ResNetUNet
from petseg.nets.tutorial_unet import TutorialUNet
from petseg.nets.unet import ResidualUNet
from shards.errors import UsageError, listed, shown_value


def build_model(config: ModelConfig | Name = "unet") -> nn.Module:
    """Build a network with fresh weights, drawn from torch's global generator.

    Args:
        config: an architecture, or a name for that name's default.

    Raises:
        UsageError: the architecture is impossible.
        PetsegError: an encoder needs timm, which is not installed.
    """
    if config not in get_args(Name) and not isinstance(config, ModelConfig):
        raise UsageError(f"config must be a ModelConfig or one of {listed(get_args(Name))}, not {shown_value(config)}")
    if not isinstance(config, ModelConfig):
        config = default_model_config(config)
    config.check()
    if config.name == "tutorial":
        return TutorialUNet(config)
    if config.encoder.startswith(TORCHVISION):
        return ResNetUNet(config)
    if config.encoder != NO_ENCODER:
        return EncoderUNet(config)
    return ResidualUNet(config)


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to a device in place, with kernels in channels_last, the memory format of the loader's images."""
    # torch's type stubs lack this form of ``to``.
    return cast(nn.Module, model.to(device, memory_format=torch.channels_last))  # type: ignore[call-overload]


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable weights."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
