"""Training a segmentation network on a shard set, scoring it, predicting with it, exporting it.

import petseg

run = petseg.train("pets-shards", options={"epochs": 20})
network = petseg.load(run)
mask = network.predict("cat.jpg").mask          # uint8 (H, W): 1 animal, 2 background, 3 border
scores = petseg.score_run(run, "pets-shards", split="test").scores
petseg.export_onnx(petseg.load(run, device="cpu"), "pets.onnx")

Importing this package is cheap: torch is imported when one of its names is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from petseg.exporters.onnx_model import export_onnx as export_onnx
    from petseg.exporters.safetensors_weights import export_weights as export_weights
    from petseg.inference.scoring import score_run as score_run
    from petseg.inference.trained_network import Prediction as Prediction
    from petseg.inference.trained_network import Predictor as Predictor
    from petseg.inference.trained_network import load as load
    from petseg.nets.factory import build_model as build_model
    from petseg.nets.model_config import ModelConfig as ModelConfig
    from petseg.training.start import train as train

_PLACES = {
    "ModelConfig": "petseg.nets.model_config",
    "Prediction": "petseg.inference.trained_network",
    "Predictor": "petseg.inference.trained_network",
    "build_model": "petseg.nets.factory",
    "export_onnx": "petseg.exporters.onnx_model",
    "export_weights": "petseg.exporters.safetensors_weights",
    "load": "petseg.inference.trained_network",
    "score_run": "petseg.inference.scoring",
    "train": "petseg.training.start",
}
__all__ = [
    "ModelConfig",
    "Prediction",
    "Predictor",
    "build_model",
    "export_onnx",
    "export_weights",
    "load",
    "score_run",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'petseg' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
