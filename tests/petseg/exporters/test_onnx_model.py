"""Exported ONNX models, run with onnxruntime."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_sets import many_labels, smooth_image, write_untrained
from PIL import Image

import petseg
from petseg.cli import export
from petseg.exporters.onnx_model import TOLERANCE, OnnxExport, export_onnx
from petseg.exporters.onnx_network import OPSET, OnnxNetwork, OnnxOptions, OnnxOutput
from petseg.host.device import choose_placement
from petseg.inference.network_inputs import network_input
from petseg.inference.probabilities import resize_probabilities
from petseg.inference.trained_network import Predictor
from petseg.nets.factory import build_model
from petseg.nets.model_config import UNET_WIDTHS
from petseg.runs.recipe import default_recipe
from shards.format.builtin_labels import PETS
from shards.format.geometry import Fit, Size


def compare(session: onnxruntime.InferenceSession, network: torch.nn.Module, sizes: list[Size]) -> None:
    for count in (1, 2, 5):
        for height, width in sizes:
            image = np.random.default_rng(count).integers(0, 256, (count, 3, height, width), dtype=np.uint8)
            (logits,) = session.run(None, {"image": image})
            with torch.inference_mode():
                expected = network(torch.from_numpy(image)).numpy()
            np.testing.assert_allclose(logits, expected, atol=TOLERANCE)


def open_session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def exported(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> OnnxExport:
    predictor = petseg.load(tiny_run, device="cpu", precision="fp32", size=48)
    return export_onnx(predictor, tmp_path_factory.mktemp("exported") / "net.onnx")


def test_takes_uint8_images_in_any_number_and_of_any_size(exported: OnnxExport, tiny_run: Path) -> None:
    path = exported.path
    assert exported.bytes == path.stat().st_size
    assert exported.card == path.with_name("net.onnx.md")
    session = open_session(path)
    network = petseg.load(tiny_run, device="cpu", precision="fp32").model
    compare(session, network, [(48, 48), (33, 97), (128, 32)])
    names = json.loads(session.get_modelmeta().custom_metadata_map["classes"])  # which may hold commas
    assert names == ["animal", "background", "border"]
    assert [each.version for each in onnx.load(path).opset_import if each.domain == ""] == [OPSET]


def test_the_default_network_s_five_levels_take_odd_sides(call, tmp_path: Path) -> None:
    """A loaded network has kernels in channels_last, with which torch's exporter takes sides for multiples of 32."""
    run = write_untrained(tmp_path / "run", many_labels(3), size=(64, 64), widths=(8,) * 5, stem="half", join="add")
    assert call(export, run, tmp_path / "net.onnx").code == 0
    network, session = petseg.load(run, device="cpu", precision="fp32").model, open_session(tmp_path / "net.onnx")
    compare(session, network, [(64, 64), (64, 87), (33, 97)])
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    assert session.get_outputs()[0].shape == ["batch", 3, "height", "width"]  # not a formula of each side


def test_twenty_one_classes_and_one_size_that_is_no_square(call, many_class_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    result = call(export, many_class_run, path, "--input-size", "fixed", "--json")
    assert result.code == 0, result.err
    facts = json.loads(result.out)
    assert (facts["bytes"], facts["card"]) == (path.stat().st_size, str(tmp_path / "net.onnx.md"))
    session = open_session(path)
    assert session.get_inputs()[0].shape[1:] == [3, 32, 48]
    assert session.get_outputs()[0].shape[1:] == [21, 32, 48]
    compare(session, petseg.load(many_class_run, device="cpu", precision="fp32").model, [(32, 48)])
    facts = session.get_modelmeta().custom_metadata_map
    assert (json.loads(facts["size"]), facts["fit"]) == ([32, 48], "contain")
    assert [each["name"] for each in json.loads(facts["labels"])["classes"]] == list(many_labels(21).names)
    card = (tmp_path / "net.onnx.md").read_text()
    assert "uint8 (B, 3, 32, 48), channels first" in card
    assert f"ONNX opset {OPSET}" in card


def test_a_network_of_crops_takes_images_of_any_size(call, tmp_path: Path, campaign: Callable[[int, int], int]) -> None:
    if not campaign(0, 1):
        pytest.skip("with --campaign: a model card's program is run with such a network in any case")
    run = write_untrained(tmp_path / "run", many_labels(5), fit="cover")
    assert call(export, run, tmp_path / "net.onnx", "--size", "40x33").code == 0
    compare(
        open_session(tmp_path / "net.onnx"),
        petseg.load(run, device="cpu", precision="fp32").model,
        [(40, 33), (40, 77), (65, 33)],
    )


@pytest.mark.parametrize("fit", ["stretch", "contain"])
def test_resizing_and_argmax_inside_give_what_petseg_predicts(
    call, tmp_path: Path, fit: str, campaign: Callable[[int, int], int]
) -> None:
    """Images of any size in, predicted classes of that size out; Pillow rounds once more between rows and columns."""
    if not campaign(0, 1):
        pytest.skip("with --campaign: a model card's program is run with such a network in any case")
    run = write_untrained(tmp_path / "run", many_labels(21), fit=fit)
    arguments = ["--input-size", "original", "--onnx-output", "classes"]
    assert call(export, run, tmp_path / "net.onnx", *arguments).code == 0
    session, predictor = open_session(tmp_path / "net.onnx"), petseg.load(run, device="cpu", precision="fp32")
    assert session.get_outputs()[0].shape == ["batch", "height", "width"]
    for number, size in enumerate([(90, 60), (61, 200), (20, 25), (48, 32)]):
        with Image.open(smooth_image(tmp_path / "a.png", size, seed=number)) as image:
            pixels = np.asarray(image)
        (found,) = session.run(None, {"image": pixels.transpose(2, 0, 1)[None]})
        expected = predictor.predict(pixels).index
        assert (found.dtype, found[0].shape) == (np.uint8, expected.shape)
        assert len(np.unique(expected)) > 1
        assert (found[0] == expected).mean() > 0.985


@pytest.mark.parametrize("fit", ["stretch", "contain"])
@given(size=st.tuples(st.integers(2, 90), st.integers(2, 90)), seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_resizing_by_matrices_is_pillows_and_torchs(fit: Fit, size: Size, seed: int) -> None:
    """The network's input is that of petseg-predict up to one grey level, and back it is torch's antialiased resize."""
    seen = []

    class Colours(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            seen.append(image)
            return image / 64

    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    inputs = network_input(Image.fromarray(pixels), size=(24, 36), fit=fit)
    options = OnnxOptions(output="probabilities", input_size="original")
    found = OnnxNetwork(Colours(), options, size=(24, 36), fit=fit)(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    assert np.abs(seen[0][0].permute(1, 2, 0).numpy() - inputs.pixels).max() <= 1.01
    inner = (seen[0] / 64).softmax(dim=1)[:, :, inputs.rows, inputs.columns]
    torch.testing.assert_close(found, resize_probabilities(inner, *size), atol=1e-4, rtol=0)


@pytest.mark.parametrize("output", ["logits", "probabilities", "classes"])
def test_outputs_are_of_one_network(output: OnnxOutput) -> None:
    network = torch.nn.Conv2d(3, 21, 1)
    image = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    options = [OnnxOptions(output=output, input_size=each) for each in ("any", "fixed")]
    logits = network(image.float())

    class OfBytes(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return network(image.float())

    expected = {
        "logits": logits,
        "probabilities": (logits.double().exp() / logits.double().exp().sum(dim=1, keepdim=True)).float(),
        "classes": logits.argmax(dim=1).to(torch.uint8),
    }
    for each in options:
        torch.testing.assert_close(OnnxNetwork(OfBytes(), each, size=(5, 7), fit="stretch")(image), expected[output])


def test_what_cannot_be_exported_is_refused_with_what_can(call, tmp_path: Path) -> None:
    cover = write_untrained(tmp_path / "cover", many_labels(3), fit="cover")
    result = call(export, cover, tmp_path / "net.onnx", "--input-size", "original")
    assert (result.code, "--input-size any" in result.err) == (2, True)
    odd = write_untrained(tmp_path / "odd", many_labels(3), upsample="transposed", size=(33, 48))
    result = call(export, odd, tmp_path / "net.onnx")
    assert (result.code, "--input-size fixed" in result.err) == (2, True)
    assert call(export, odd, tmp_path / "net.onnx", "--input-size", "fixed").code == 0


@pytest.mark.parametrize("more", [0.01, float("nan")])
def test_a_file_that_computes_something_else_is_not_written(
    call, exported: OnnxExport, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: float
) -> None:
    model = onnx.load(exported.path)
    (bias,) = (each for each in model.graph.initializer if each.name.endswith("head.bias"))
    values = onnx.numpy_helper.to_array(bias).copy()
    values[1] += more
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    monkeypatch.setattr("petseg.exporters.onnx_model._to_onnx", lambda *_: model.SerializeToString())
    result = call(export, tiny_run, tmp_path / "net.onnx")
    assert (result.code, "nothing was written" in result.err) == (1, True)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_shows_what_is_done(
    call, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    monkeypatch.setattr("petseg.exporters.onnx_model._to_onnx", lambda *_: b"")
    monkeypatch.setattr("petseg.exporters.onnx_model._largest_difference", lambda *_: time.sleep(0.3) or 0.0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    for name, value in (("COLUMNS", "160"), ("TERM", "xterm"), ("FORCE_COLOR", "1")):
        monkeypatch.setenv(name, value)
    result = call(export, tiny_run, tmp_path / "net.onnx")
    assert result.code == 0
    assert ("comparing onnxruntime with torch" in result.err) == terminal
    assert terminal or not result.err
    assert result.out.startswith(f"{tmp_path / 'net.onnx'}: 0 bytes")


class TwoLayers(torch.nn.Module):
    """An encoder in the place of one of timm's, each of whose layers the exporter follows for a tenth of a second."""

    feature_info = SimpleNamespace(channels=lambda: [6, 12], reduction=lambda: [2, 4])

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.second = torch.nn.Conv2d(6, 12, 3, stride=2, padding=1)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        features = self.first(image).relu()
        return [features, self.second(features).relu()]


class SamePadding(TwoLayers):
    """Likewise, with the padding of tf_efficientnet_lite0 and other networks that come from TensorFlow."""

    def __init__(self) -> None:
        super().__init__()
        layers = pytest.importorskip("timm.layers")
        self.first = layers.create_conv2d(3, 6, 3, stride=2, padding="same", bias=True)
        self.second = layers.create_conv2d(6, 12, 6, stride=2, padding="same", bias=True)
        pools = (layers.create_pool2d(kind, 2, 1, padding="same") for kind in ("max", "avg"))
        self.pools = torch.nn.Sequential(*pools)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        features = self.first(image).relu()
        return [features, self.pools(self.second(features)).relu()]


@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize(
    "encoder", ["two layers", "same padding", "resnet10t", "mobilenetv3_small_050", "tf_efficientnet_lite0"]
)
def test_encoders_take_images_of_any_size(
    call,
    tmp_path: Path,
    encoder: str,
    scale: float,
    campaign: Callable[[int, int], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They pad images to their stride, or enlarge them; in the file that holds for every image, whatever its size."""
    pytest.importorskip("timm", reason="timm is not installed: pip install 'petseg[encoders]'")
    if encoder != "same padding" and not campaign(0, 1):
        pytest.skip("with --campaign: many layers take a minute, and two with another padding are in the other network")
    if stand_in := {"two layers": TwoLayers, "same padding": SamePadding}.get(encoder):
        monkeypatch.setattr("petseg.nets.encoder_unet.create_encoder", lambda name: stand_in())
        encoder = "resnet10t"
    from timm.layers import padding

    same_padding = padding.get_same_padding

    def of_numbers(side: int, *shape: int) -> int:
        if not isinstance(side, int):  # no AssertionError: torch would catch it, and try another way
            pytest.fail("of symbolic sides the exporter computes for ever")
        return same_padding(side, *shape)

    monkeypatch.setattr(padding, "get_same_padding", of_numbers)
    labels = many_labels(21)
    network = {"encoder": encoder, "input_scale": scale, "upsample": "transposed", "widths": UNET_WIDTHS}
    run = write_untrained(tmp_path / "run", labels, **network)
    assert call(export, run, tmp_path / "net.onnx").code == 0
    compare(
        open_session(tmp_path / "net.onnx"),
        petseg.load(run, device="cpu", precision="fp32").model,
        [(64, 64), (33, 70), (96, 51)],
    )


@pytest.mark.slow
def test_tutorial_network(tmp_path: Path) -> None:
    placement = choose_placement(torch.device("cpu"), "fp32")
    predictor = Predictor(
        build_model("tutorial").eval(),
        recipe=default_recipe("tutorial"),
        labels=PETS,
        placement=placement,
        source=write_untrained(tmp_path / "run", PETS) / "best.pt",
        size=(34, 38),  # both are padded
    )
    assert export_onnx(predictor, tmp_path / "t.onnx").largest_difference < TOLERANCE


@pytest.mark.parametrize(
    "error", [RuntimeError("no such operator\nmore"), ValueError("no such operator"), KeyError("x")]
)
def test_what_torch_cannot_export_is_one_line(
    call, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("torch.onnx.export", failing)
    result = call(export, tiny_run, tmp_path / "net.onnx")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "torch's exporter cannot follow the network" in result.err
    assert "--input-size fixed" in result.err
    assert not any(tmp_path.iterdir())


def test_nothing_but_the_export_is_written(tmp_path: Path) -> None:
    """onnxruntime's telemetry leaves files in TMPDIR and in the user's cache folder."""
    run = write_untrained(tmp_path / "run", PETS)
    for name in ("home", "scratch"):
        (tmp_path / name).mkdir()
    places = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "scratch")}
    unset = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_"))}
    command = [sys.executable, "-c", "from petseg.cli import export; export()", run, tmp_path / "a.onnx"]
    subprocess.run(command, env={**unset, **places}, check=True, capture_output=True)
    left = [path for name in ("home", "scratch") for path in (tmp_path / name).rglob("*")]
    assert [path for path in left if ".ses" in path.name or "Microsoft" in str(path)] == []
