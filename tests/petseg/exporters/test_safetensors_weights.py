"""Weights with their model card."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import petseg
from petseg.cli import export
from petseg.nets.model_config import ModelConfig


def test_weights_and_their_card(call, tiny_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    result = call(export, tiny_run, path, "--json")
    assert json.loads(result.out)["bytes"] == path.stat().st_size
    with safe_open(path, "pt") as file:
        architecture = json.loads(file.metadata()["architecture"])
    network = petseg.build_model(msgspec.convert(architecture, ModelConfig))
    network.load_state_dict(load_file(path))
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(network.eval()(image), petseg.load(tiny_run, device="cpu").model(image))
    card = (tmp_path / "net.md").read_text()
    assert "Limits" in card
    assert "mean IoU" in card


def test_exports_of_one_run_have_the_same_bytes(tiny_run: Path, tmp_path: Path) -> None:
    names = [tmp_path / f"{number}.safetensors" for number in range(4)]  # the library's order differed in half of them
    for name in names:
        petseg.export(tiny_run, name)
    assert len({name.read_bytes() for name in names}) == 1
    assert int.from_bytes(names[0].read_bytes()[:8], "little") % 8 == 0


@pytest.mark.parametrize("options", [["net.safetensors"], ["net.onnx"], ["hub", "--hub"]])
def test_outputs_that_are_not_finite_are_not_exported(
    call, tiny_run: Path, tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("petseg.exporters.onnx_model._to_onnx", lambda *_: b"")
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_, **__: SimpleNamespace(run=lambda *_: (np.zeros(1),)))
    document = torch.load(tiny_run / "best.pt", weights_only=True)
    for name, tensor in document["model"].items():
        if name.startswith("levels.") and tensor.dim() == 4:
            document["model"][name] = tensor.sign() * 1e38
    torch.save(document, tmp_path / "broken.pt")
    monkeypatch.chdir(tmp_path)
    result = call(export, "broken.pt", *options)
    assert (result.code, "outputs are not finite" in result.err) == (1, True), result.err
    assert [path.name for path in tmp_path.iterdir()] == ["broken.pt"]
