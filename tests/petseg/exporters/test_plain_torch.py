"""The model card's plain torch computes what the network computes."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import petseg
from petseg.exporters.plain_torch import forward_code
from petseg.nets.model_config import ModelConfig

CONFIGS = {
    "default": ModelConfig(),
    "21 classes": ModelConfig(widths=(8, 16, 24), classes=21),
    "one class": ModelConfig(widths=(8, 16), classes=1),
    "blocks": ModelConfig(widths=(8, 16, 16), blocks=3),
    "full": ModelConfig(widths=(8, 8), stem="full"),
    "concat": ModelConfig(widths=(8, 16, 24), join="concat"),
    "group": ModelConfig(widths=(8, 16, 24), norm="group"),
    "transposed": ModelConfig(widths=(8, 16, 24), upsample="transposed"),
    "concat, transposed": ModelConfig(widths=(8, 16, 24), upsample="transposed", join="concat", dropout=0.5),
    "torchvision": ModelConfig(encoder="torchvision/resnet18", stem="full", blocks=2, classes=4),
    "resnet18": ModelConfig(encoder="resnet18", stem="half", join="add", blocks=2, classes=4),
    "lite0": ModelConfig(encoder="tf_efficientnet_lite0", stem="full", join="concat", upsample="transposed"),
    "enlarged": ModelConfig(encoder="resnet18", stem="half", join="add", input_scale=1.6),
    "convnext": ModelConfig(encoder="convnext_atto", stem="full", norm="group"),
    "channels last": ModelConfig(encoder="mambaout_femto", stem="half", join="add"),
    "attention": ModelConfig(encoder="vit_tiny_patch16_224", stem="half", join="add"),
    "tutorial": ModelConfig(name="tutorial", widths=(64, 128, 256), classes=5),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_code_computes_the_networks_logits(config: ModelConfig) -> None:
    import timm
    import torchvision

    torch.manual_seed(0)
    network = petseg.build_model(config).eval()
    for module in network.modules():  # of a fresh network, most of these are 0 or 1
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    code: dict[str, Any] = {
        "torch": torch,
        "F": F,
        "torchvision": torchvision,
        "timm": timm,
        "w": dict(network.state_dict()),
    }
    exec(forward_code(config), code)
    with torch.inference_mode():
        for size in ((64, 96), (33, 47)):
            image = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
            torch.testing.assert_close(code["network"](image), network(image), rtol=1e-4, atol=1e-4)


def test_it_is_short() -> None:
    assert len([line for line in forward_code(ModelConfig()).splitlines() if line.strip()]) <= 40
