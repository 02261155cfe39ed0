"""Semantic segmentation from shards to scores: the public face of the project.

from petseg import Loader, ShardSet, build_shards, evaluate, export, predict, train

build_shards("pets", "pets-shards")                        # images and masks, packed into tar shards
run = train("pets-shards", options={"epochs": 20})         # the run's folder
evaluate(run, "pets-shards", split="test").scores.mean_iou
predict(run, ["cat.jpg"], "masks")                         # masks/cat.png
export(run, "pets.onnx")

Importing this package is cheap: torch is imported when one of its names is first used.
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lazy_loader

if TYPE_CHECKING:
    from petseg.api import Batch as Batch
    from petseg.api import Loader as Loader
    from petseg.api import PetsegError as PetsegError
    from petseg.api import ShardSet as ShardSet
    from petseg.api import build_shards as build_shards
    from petseg.api import copy_shards as copy_shards
    from petseg.api import export as export
    from petseg.api import join_shards as join_shards
    from petseg.api import predict as predict
    from petseg.exporters.onnx_model import export_onnx as export_onnx
    from petseg.exporters.safetensors_weights import export_weights as export_weights
    from petseg.inference.probabilities import Prediction as Prediction
    from petseg.inference.scoring import evaluate as evaluate
    from petseg.inference.scoring import score_run as score_run
    from petseg.inference.trained_network import Predictor as Predictor
    from petseg.inference.trained_network import load as load
    from petseg.nets.factory import build_model as build_model
    from petseg.nets.model_config import ModelConfig as ModelConfig
    from petseg.report.console_reporter import ConsoleReporter as ConsoleReporter
    from petseg.training.start import train as train


def _refuse_hidden_packages() -> None:
    """Raise ImportError if a user's own pipeline.py or shards.py comes before this project's packages on sys.path."""
    for name in ("pipeline", "shards"):
        loaded = sys.modules.get(name)
        spec = loaded.__spec__ if loaded is not None else find_spec(name)
        file = spec.origin if spec is not None else getattr(loaded, "__file__", None)
        if file is not None and Path(file).resolve().parent.parent != Path(__file__).resolve().parent.parent:
            raise ImportError(
                f"{file} hides petseg's own package {name!r}, because Python looks into its folder first: "
                "rename it, or run from another folder"
            )


_refuse_hidden_packages()

_lazy_attribute, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "api": [
            "Batch",
            "Loader",
            "PetsegError",
            "ShardSet",
            "build_shards",
            "copy_shards",
            "export",
            "join_shards",
            "predict",
        ],
        "exporters.onnx_model": ["export_onnx"],
        "exporters.safetensors_weights": ["export_weights"],
        "inference.scoring": ["evaluate", "score_run"],
        "inference.probabilities": ["Prediction"],
        "inference.trained_network": ["Predictor", "load"],
        "nets.factory": ["build_model"],
        "nets.model_config": ["ModelConfig"],
        "report.console_reporter": ["ConsoleReporter"],
        "training.start": ["train"],
    },
)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from shards import installed_version

        return installed_version()
    return _lazy_attribute(name)
