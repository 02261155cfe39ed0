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
    from petseg.export import export_onnx as export_onnx
    from petseg.models import ModelConfig as ModelConfig
    from petseg.models import build_model as build_model
    from petseg.predictor import Prediction as Prediction
    from petseg.predictor import Predictor as Predictor
    from petseg.predictor import load as load
    from petseg.scoring import score_run as score_run
    from petseg.training import train as train
    from petseg.weights import export_weights as export_weights

_PLACES = {
    "ModelConfig": "petseg.models",
    "Prediction": "petseg.predictor",
    "Predictor": "petseg.predictor",
    "build_model": "petseg.models",
    "export_onnx": "petseg.export",
    "export_weights": "petseg.weights",
    "load": "petseg.predictor",
    "score_run": "petseg.scoring",
    "train": "petseg.training",
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
