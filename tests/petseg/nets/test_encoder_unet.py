"""One decoder for timm's networks of any channels and strides."""

import sys

import pytest
import torch
from msgspec.structs import replace
from optional_packages import needs
from torch import nn

from petseg.nets.factory import build_model
from petseg.nets.model_config import ModelConfig
from petseg.nets.timm_encoders import check_encoder, check_encoder_name, create_encoder, parameters_of_levels
from shards.errors import PetsegError, UsageError

pytestmark = [needs("timm", extra="encoders"), pytest.mark.usefixtures("one_thread")]

LIGHT = ModelConfig(stem="half", join="add", decoder_widths=())
# Small networks of different families: strides from 1, 2, 4 or 16, with the channels first or last, convolutions and
# attention, activations inside their normalisation.
FAMILIES = [
    ("resnet18", "half"),
    ("tf_efficientnet_lite0", "half"),
    ("mobilenetv3_small_050", "full"),
    ("regnetx_002", "half"),
    ("convnext_atto", "half"),
    ("convnext_atto", "full"),
    ("mambaout_femto", "half"),
    ("pvt_v2_b0", "half"),
    ("vgg11", "full"),
    ("vit_tiny_patch16_224", "half"),
]


def pixels(*size: int, count: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("encoder", "stem"), FAMILIES)
def test_encoders_of_every_kind(encoder: str, stem: str) -> None:
    check_encoder(encoder)
    model = build_model(replace(LIGHT, encoder=encoder, stem=stem, classes=2))
    size = (48, 33) if encoder == "vgg11" else (65, 90)
    logits = model.train()(pixels(*size))
    assert logits.shape == (2, 2, *size)
    logits.square().sum().backward()
    # An unused parameter would stop Muon and DistributedDataParallel.
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert model.head.out_channels == (2 if stem == "full" else 8)


@pytest.mark.parametrize("encoder", ["resnet18", "convnext_atto", "vit_tiny_patch16_224"])
def test_what_lies_outside_of_a_padded_image_changes_nothing(encoder: str) -> None:
    """At the right and at the bottom only: an image with its last rows and columns repeated has the same logits."""
    model = build_model(replace(LIGHT, encoder=encoder)).eval()
    image = pixels(50, 70, count=1)
    larger = nn.functional.pad(image.float(), (0, -70 % model.stride, 0, -50 % model.stride), mode="replicate")
    with torch.no_grad():
        torch.testing.assert_close(model(larger)[..., :50, :70], model(image))


@pytest.mark.parametrize("stem", ["half", "full"])
def test_an_enlarged_input(stem: str) -> None:
    """The encoder sees each side enlarged to a multiple of its stride; the logits have the image's size."""
    model = build_model(replace(LIGHT, encoder="resnet18", stem=stem, input_scale=1.5, classes=4)).eval()
    seen: list[torch.Tensor] = []
    model.encoder.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    model.head.register_forward_hook(lambda *arguments: seen.append(arguments[2]))
    image = pixels(64, 97)
    logits = model(image)
    before, after = seen
    assert before.shape == (2, 3, 96, 160)  # 145.5 is no multiple of 32
    finest = nn.functional.pixel_shuffle(after, model.scale)
    assert finest.shape == (2, 4, 96, 160)
    torch.testing.assert_close(before, resized(model.normalise(image), 96, 160))
    torch.testing.assert_close(logits, resized(finest, 64, 97))


def resized(values: torch.Tensor, *size: int) -> torch.Tensor:
    return nn.functional.interpolate(values, size=size, mode="bilinear", align_corners=False)


def test_attention_of_any_size() -> None:
    """Windows and positions would fit one size of images only, unless timm is asked for more."""
    check_encoder("swin_tiny_patch4_window7_224")
    check_encoder("vit_tiny_patch16_224")


def test_the_decoders_widths() -> None:
    model = build_model(replace(LIGHT, encoder="resnet18", decoder_widths=(8, 8, 16, 24)))
    assert [block.mix[0].conv1.out_channels for block in model.decoder.rises] == [24, 16, 8, 8]
    with pytest.raises(UsageError, match=r"names 2 levels.*has 4, at strides of 2, 4, 8, 16 pixels"):
        build_model(replace(LIGHT, encoder="resnet18", decoder_widths=(8, 8)))
    with pytest.raises(UsageError, match="has 5, at strides of 1, 2, 4, 8, 16"):
        build_model(replace(LIGHT, encoder="resnet18", stem="full", decoder_widths=(8, 8)))


@pytest.mark.parametrize("change", [{"join": "concat"}, {"upsample": "transposed"}, {"blocks": 2}, {"norm": "group"}])
def test_the_options_of_the_decoder(change: dict[str, object]) -> None:
    plain, other = (build_model(replace(LIGHT, encoder="convnext_atto", **more)) for more in ({}, change))
    assert other.state_dict().keys() != plain.state_dict().keys() or "join" in change
    assert other.train()(pixels(64, 32)).shape == (2, 3, 64, 32)


def test_an_encoder_draws_nothing_at_random() -> None:
    """Also where timm's default drops paths."""
    for name in ("tiny_vit_5m_224", "convnext_atto"):
        encoder = create_encoder(name).train()
        image = pixels(64, 64).float()
        for one, other in zip(encoder(image), encoder(image), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("resnet19", "similar names: .*resnet18"),
        ("zzzzzz", "no such network$"),
        ("hf-hub:timm/resnet18.a1_in1k", "no such network"),
        ("resnet18.nothing", "no weights with the tag 'nothing'; choose from .*a1_in1k"),
    ],
)
def test_unknown_names(name: str, part: str) -> None:
    with pytest.raises(UsageError, match=part):
        check_encoder_name(name)
    with pytest.raises(UsageError, match=part):
        build_model(replace(LIGHT, encoder=name))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("eva02_tiny_patch14_224", "strides of 14 pixels; a decoder needs powers of two"),
        ("convmixer_768_32", "strides of 7 pixels"),
        ("efficientformer_l1", "does not take images of any size: 64x96 fails"),
    ],
)
def test_encoders_that_cannot_be_used(name: str, part: str) -> None:
    with pytest.raises(UsageError, match=part):
        check_encoder(name)


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(PetsegError, match=r"pip install 'petseg\[encoders\]'"):
        build_model(replace(LIGHT, encoder="resnet18"))
    build_model(ModelConfig(encoder="torchvision/resnet18"))  # version 1's


def test_the_parameters_behind_a_level() -> None:
    names = parameters_of_levels("resnet18", stride=4)
    assert {name.split(".")[0] for name in names} == {"conv1", "bn1", "layer1"}
    assert names >= {"conv1.weight", "bn1.bias", "layer1.1.conv2.weight"}
    every = {name for name, _ in create_encoder("resnet18").named_parameters()}
    assert parameters_of_levels("resnet18", stride=32) == every
    assert not parameters_of_levels("resnet18", stride=1)


def test_a_frozen_encoder() -> None:
    model = build_model(replace(LIGHT, encoder="resnet18"))
    model.freeze_encoder(True)
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    model.train()(pixels(64, 64)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in model.encoder.state_dict().items())
    assert all((parameter.grad is None) == name.startswith("encoder.") for name, parameter in model.named_parameters())
    model.freeze_encoder(False)
    model.train()(pixels(64, 64)).sum().backward()
    assert any(not torch.equal(value, before[name]) for name, value in model.encoder.state_dict().items())
    assert all(parameter.grad is not None for parameter in model.parameters())
