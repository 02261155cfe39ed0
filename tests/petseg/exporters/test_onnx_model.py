"""Exported ONNX models, run with onnxruntime."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from labelled_sets import many_labels, write_untrained

import petseg
from petseg.cli import export
from petseg.exporters.onnx_model import TOLERANCE, export_onnx
from petseg.host.device import choose_placement
from petseg.inference.trained_network import Predictor
from petseg.nets.factory import build_model
from petseg.runs.recipe import default_recipe
from shards.format.builtin_labels import PETS
from shards.format.geometry import Size


def compare(session: onnxruntime.InferenceSession, network: torch.nn.Module, sizes: list[Size]) -> None:
    for count in (1, 2, 5):
        for height, width in sizes:
            image = np.random.default_rng(count).integers(0, 256, (count, 3, height, width), dtype=np.uint8)
            (logits,) = session.run(None, {"image": image})
            with torch.inference_mode():
                expected = network(torch.from_numpy(image)).numpy()
            np.testing.assert_allclose(logits, expected, atol=TOLERANCE)


def test_uint8_images_in_any_number_of_a_size_that_is_no_square(call, many_class_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    result = call(export, many_class_run, path, "--json")
    assert result.code == 0, result.err
    printed = json.loads(result.out)
    assert printed["bytes"] == path.stat().st_size
    assert printed["card"] == str(tmp_path / "net.onnx.md")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[1:] == [3, 32, 48]
    assert session.get_outputs()[0].shape[1:] == [21, 32, 48]
    compare(session, petseg.load(many_class_run, device="cpu", precision="fp32").model, [(32, 48)])
    facts = session.get_modelmeta().custom_metadata_map
    names = list(many_labels(21).names)
    assert (json.loads(facts["size"]), facts["fit"]) == ([32, 48], "contain")
    assert [each["name"] for each in json.loads(facts["labels"])["classes"]] == names
    assert facts["classes"] == ",".join(names)


def test_a_network_of_crops_takes_images_of_any_size(call, tmp_path: Path) -> None:
    run = write_untrained(tmp_path / "run", many_labels(5), fit="cover")
    assert call(export, run, tmp_path / "net.onnx", "--size", "40x33").code == 0
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    compare(session, petseg.load(run, device="cpu", precision="fp32").model, [(40, 33), (40, 77), (65, 33)])


@pytest.mark.slow
def test_tutorial_network(tmp_path: Path) -> None:
    placement = choose_placement(torch.device("cpu"), "fp32")
    predictor = Predictor(
        build_model("tutorial").eval(),
        recipe=default_recipe("tutorial"),
        labels=PETS,
        placement=placement,
        source=write_untrained(tmp_path / "run", PETS) / "best.pt",
        size=(50, 62),  # both are padded
    )
    assert export_onnx(predictor, tmp_path / "t.onnx").largest_difference < TOLERANCE
