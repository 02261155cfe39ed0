"""Weights with their model card."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
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
