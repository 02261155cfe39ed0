import math

import pytest
import torch
from torch import nn

from petseg.nets.factory import build_model, count_parameters
from petseg.nets.model_config import TUTORIAL_WIDTHS, ModelConfig, default_model_config
from petseg.nets.normalise import MEAN, STD
from shards.errors import UsageError

EVERY = [
    ModelConfig(widths=(8, 16, 24)),
    ModelConfig(widths=(8, 16), blocks=2),
    ModelConfig(widths=(8, 16, 24), stem="half"),
    ModelConfig(widths=(8, 16, 24), norm="group"),
    ModelConfig(widths=(8, 16, 24), upsample="transposed"),
    ModelConfig(widths=(8, 16, 24), join="add"),
    ModelConfig(widths=(8, 16, 24), join="add", upsample="transposed", norm="group"),
    ModelConfig(encoder="resnet18", join="add", stem="half"),
    ModelConfig(widths=(8, 16, 24), dropout=0.5),
    ModelConfig(encoder="torchvision/resnet18", join="add"),
    ModelConfig(encoder="torchvision/resnet50"),
    default_model_config("tutorial"),
    default_model_config("unet"),
    ModelConfig(widths=(8, 16), classes=1),
    ModelConfig(widths=(8, 16, 24), stem="half", classes=150),
    ModelConfig(encoder="resnet18", classes=21),
    ModelConfig(name="tutorial", widths=TUTORIAL_WIDTHS, classes=255),
]


@pytest.mark.parametrize("config", EVERY, ids=str)
def test_any_size_gives_logits_of_that_size(config: ModelConfig) -> None:
    model = build_model(config).eval()
    for height, width in [(32, 32), (33, 47), (100, 52)]:
        image = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
        with torch.no_grad():
            logits = model(image)
            assert logits.shape == (2, config.classes, height, width)
            assert logits.dtype == torch.float32
            assert torch.isfinite(logits).all()
            # uint8 and float give the same, and images of a batch are independent.
            torch.testing.assert_close(model(image.float()), logits)
            torch.testing.assert_close(model(image[:1]), logits[:1], rtol=1e-4, atol=1e-4)


def test_parameters_are_named_as_in_checkpoints_of_version_1() -> None:
    unet = build_model(ModelConfig(widths=(8, 16), join="add", upsample="transposed")).state_dict()
    assert {
        name.removesuffix(".weight") for name in unet if name.startswith("decoder") and name.endswith("weight")
    } == {
        *(f"decoder.rises.0.rise.{layer}" for layer in (0, 1, 2)),
        *(f"decoder.rises.0.mix.0.{layer}" for layer in ("conv1", "norm1", "conv2", "norm2")),
    }
    tops = {name.split(".")[0] for name in unet}
    assert tops == {"normalise", "stem", "levels", "decoder", "head"}
    tutorial = {name.split(".")[0] for name in build_model("tutorial").state_dict()}
    assert tutorial == {"normalise", "down1", "down2", "bottom", "rise2", "up2", "rise1", "up1", "head"}
    resnet = build_model(ModelConfig(encoder="torchvision/resnet18")).state_dict()
    encoder = {name.split(".")[0] for name in resnet}
    assert {"stem.0.weight", "stem.1.running_var", "levels.0.1.conv2.weight", "levels.3.0.downsample.0.weight"} < {
        *resnet
    }
    assert encoder == {*tops, "full"}


def test_normalisation_is_the_first_operation() -> None:
    model = build_model(ModelConfig(widths=(8, 16))).eval()
    assert model.normalise(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)).flatten().tolist() == pytest.approx(
        [(255 - mean) / std for mean, std in zip(MEAN, STD, strict=True)]
    )
    assert {"normalise.mean", "normalise.std"} <= set(model.state_dict())


def test_tutorial_network_is_that_of_the_tutorial() -> None:
    model = build_model("tutorial")
    kernels = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert [(m.out_channels, m.kernel_size[0]) for m in kernels if isinstance(m, nn.ConvTranspose2d)] == [
        (128, 4),
        (64, 4),
    ]
    assert {m.out_channels for m in kernels} == {*TUTORIAL_WIDTHS, 3}
    # It ends in logits: neither an activation nor a normalisation bounds them.
    assert isinstance(list(model.modules())[-1], nn.Conv2d)


def test_a_fresh_network_is_a_function_of_the_seed() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(build_model(ModelConfig(widths=(8, 16))).parameters())

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_dropout_is_wired() -> None:
    model = build_model(ModelConfig(widths=(8, 16), dropout=0.9)).train()
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert not torch.equal(model(image), model(image))


def test_size_of_the_default() -> None:
    assert count_parameters(build_model("unet")) == pytest.approx(2.7e6, rel=0.05)


@pytest.mark.parametrize(
    ("config", "part"),
    [
        (ModelConfig(widths=(8,)), "2 to 6"),
        (ModelConfig(widths=(8, 0)), "channels"),
        (ModelConfig(widths=(12, 16), norm="group"), "multiple of 8"),
        (ModelConfig(blocks=0), "blocks"),
        (ModelConfig(dropout=1.0), "dropout"),
        (ModelConfig(classes=0), "0 classes"),
        (ModelConfig(classes=256), "256 classes"),
        (ModelConfig(encoder="resnet18", widths=(8, 16)), "widths"),
        (ModelConfig(decoder_widths=(8, 16)), "decoder_widths needs encoder"),
        (ModelConfig(encoder="resnet18", decoder_widths=(8, 0)), r"decoder_widths=\(8, 0\): every level"),
        (ModelConfig(encoder="resnet18", norm="group", decoder_widths=(12, 8, 8, 8)), "of decoder_widths a multiple"),
        (ModelConfig(input_scale=1.5), "input_scale needs encoder"),
        (ModelConfig(encoder="resnet18", input_scale=0.5), "input_scale=0.5: give a number from 1 to 4"),
        (ModelConfig(encoder="resnet18", input_scale=math.nan), "input_scale=nan"),
        (ModelConfig(encoder="torchvision/resnet18", input_scale=2.0), "no input_scale"),
        (ModelConfig(encoder="torchvision/vgg11"), "version 1's encoders are torchvision/resnet18"),
        (ModelConfig(encoder="torchvision/resnet18", stem="half"), "stem='full'"),
        (ModelConfig(name="tutorial", widths=TUTORIAL_WIDTHS, dropout=0.5), "tutorial"),
    ],
    ids=str,
)
def test_impossible_architectures_are_refused(config: ModelConfig, part: str) -> None:
    with pytest.raises(UsageError, match=part):
        build_model(config)
