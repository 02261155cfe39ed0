"""Exported ONNX models, run with onnxruntime."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import petseg
from petseg.cli import export
from petseg.exporters.onnx_model import TOLERANCE, export_onnx
from petseg.host.device import choose_placement
from petseg.inference.trained_network import Predictor
from petseg.nets.factory import build_model
from petseg.runs.recipe import default_recipe


def test_takes_uint8_images_in_any_number(call, tiny_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    result = call(export, tiny_run, path, "--size", "48", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["bytes"] == path.stat().st_size
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    network = petseg.load(tiny_run, device="cpu", precision="fp32")
    for count in (1, 2, 5):
        image = np.random.default_rng(count).integers(0, 256, (count, 3, 48, 48), dtype=np.uint8)
        (logits,) = session.run(None, {"image": image})
        with torch.inference_mode():
            expected = network.model(torch.from_numpy(image)).numpy()
        np.testing.assert_allclose(logits, expected, atol=TOLERANCE)
    assert session.get_modelmeta().custom_metadata_map["classes"] == "animal,background,border"


@pytest.mark.slow
def test_tutorial_network(tmp_path: Path) -> None:
    placement = choose_placement(torch.device("cpu"), "fp32")
    predictor = Predictor(
        build_model("tutorial").eval(),
        recipe=default_recipe("tutorial"),
        placement=placement,
        source=tmp_path,
        size=50,  # is padded
    )
    assert export_onnx(predictor, tmp_path / "t.onnx").largest_difference < TOLERANCE
