"""The networks by name, built from a :class:`ModelConfig`.

Every network takes uint8 or float pictures (B, 3, H, W) in 0..255, of any H and W of at least 32 pixels, and gives
float logits (B, 3, H, W) in class order: animal, background, border. It owns its normalisation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from petseg.nets.model_config import ModelConfig, Name, default_model_config

if TYPE_CHECKING:
    import torch
    from torch import nn


def build_model(config: ModelConfig | Name = "unet", *, load_pretrained: bool = True) -> nn.Module:
    """Build a network with fresh weights, drawn from torch's global generator.

    Args:
        config: an architecture, or a name for that name's default.
        load_pretrained: fetch the encoder's ImageNet weights if the config asks for them; False where a checkpoint
            follows anyway.

    Raises:
        UsageError: the architecture is impossible, or pretrained weights cannot be had.
    """
    if not isinstance(config, ModelConfig):
        config = default_model_config(config)
    config.check()
    if config.name == "tutorial":
        from petseg.nets.tutorial_unet import TutorialUNet

        return TutorialUNet()
    if config.encoder != "none":
        from petseg.nets.encoder_unet import EncoderUNet

        return EncoderUNet(config, load_pretrained=load_pretrained)
    from petseg.nets.unet import ResidualUNet

    return ResidualUNet(config)


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to a device, its kernels channels_last as the loader's pictures are; in place."""
    import torch

    # torch's type stubs lack this form of ``to``.
    return cast("nn.Module", model.to(device, memory_format=torch.channels_last))  # type: ignore[call-overload]


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable weights."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
