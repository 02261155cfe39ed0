"""The script that trains segmentation_models_pytorch: the encoder's weights and constants, and a run of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from optional_packages import needs

from bench.smp_training import SmpNetwork, main, train_smp
from shards import ShardSet
from shards.errors import UsageError

pytestmark = needs("segmentation_models_pytorch", extra="peers")
ENCODER = "tf_efficientnet_lite0"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(1)
    path = tmp_path / "encoder.safetensors"
    save_file(timm.create_model(ENCODER, pretrained=False).state_dict(), path)
    return path


def test_its_encoder_sees_what_timm_says(weights: Path) -> None:
    """The features are those of timm's own network with these weights, of pixels from -1 to 1."""
    import timm
    from safetensors.torch import load_file

    torch.manual_seed(2)
    network = SmpNetwork("Unet", ENCODER, classes=5, weights=weights).eval()
    own = timm.create_model(ENCODER, pretrained=False, features_only=True).eval()
    own.load_state_dict(load_file(weights), strict=False)
    found: list[torch.Tensor] = []
    network.network.encoder.model.register_forward_hook(lambda _, inputs, outputs: found.extend(outputs))
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        assert network(image).shape == (1, 5, 64, 64)
        expected = own(image / 127.5 - 1)
    assert len(found) == 5
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_other_weights_are_refused(tmp_path: Path, weights: Path) -> None:
    from safetensors.torch import load_file, save_file

    few = load_file(weights)
    del few["blocks.3.0.conv_pw.weight"]
    save_file(few, tmp_path / "few.safetensors")
    with pytest.raises(UsageError, match=r"lacks 1 tensors .* blocks\.3\.0\.conv_pw\.weight"):
        SmpNetwork("FPN", ENCODER, classes=3, weights=tmp_path / "few.safetensors")


def test_a_run_scores_the_splits(synthetic_set: Path, weights: Path) -> None:
    result = train_smp(
        ShardSet.open(synthetic_set),
        architecture="FPN",
        encoder=ENCODER,
        weights=weights,
        size=32,
        epochs=1,
        batch_size=16,
        augment="none",
        seed=0,
        splits=("val",),
    )
    assert 0 <= result["val"] <= 1
    assert result["processor_seconds"] > 0
    assert "test" not in result


def test_wrong_input_gives_one_clear_line(synthetic_set: Path) -> None:
    for words, part in ((["/nowhere"], "/nowhere"), ([str(synthetic_set), "--encoder", "resnet17"], "no such network")):
        result = CliRunner().invoke(main, words)
        assert (result.exit_code > 0, part in result.stderr) == (True, True), result.output
        assert len(result.stderr.splitlines()) == 1
