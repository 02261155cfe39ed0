"""A network in the layout of a Hugging Face repository, as ``petseg-export --hub`` writes it.

README.md            the model card, its facts in YAML at the top
config.json          architecture, labels, size and fit, under ``petseg``
model.safetensors    the (averaged) weights
use.py               a program that predicts one image with these files alone
"""

import json
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

import msgspec
import torch

from petseg.nets.model_config import ModelConfig
from petseg.runs.checkpoint import CheckpointError
from petseg.runs.recipe import parse_run_size
from petseg.runs.run_folder import BEST, LAST
from shards.errors import PetsegError
from shards.format.geometry import Fit, Size
from shards.format.labels import Labels

CARD = "README.md"
HUB_CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PROGRAM = "use.py"
VERSION = 1
_LONGEST_CONFIG = 16 * 2**20  # bytes; 255 classes take less than a hundredth of it


class HubConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What ``config.json`` has under ``petseg``.

    ``size`` is (height, width) of the images that the network was trained on, ``recipe`` all options of its training,
    which nothing reads back.
    """

    version: int
    model: ModelConfig
    labels: Labels
    size: Size
    fit: Fit
    recipe: dict[str, Any] = {}


@dataclass(frozen=True, kw_only=True)
class HubFolder:
    """What :func:`read_hub_folder` has read: the configuration, and the weights by name, on the CPU."""

    config: HubConfig
    weights: dict[str, torch.Tensor]


def is_hub_folder(path: Path) -> bool:
    """Whether a folder looks like one that ``petseg-export --hub`` wrote, and not like a run."""
    return all((path / name).is_file() for name in (HUB_CONFIG, WEIGHTS)) and not any(
        (path / name).exists() for name in (BEST, LAST)
    )


def read_hub_folder(path: str | Path) -> HubFolder:
    """Read a folder that ``petseg-export --hub`` wrote, or a clone of the repository that it became.

    Nothing in it is executed. Whether the weights fit the architecture is for the caller's ``load_state_dict`` to say.

    Raises:
        CheckpointError: a file is missing, damaged, or of another program or version; a weight is not finite.
        PetsegError: safetensors is not installed.
    """
    path = Path(path)
    config = _read_config(path / HUB_CONFIG)
    file = path / WEIGHTS
    if not file.is_file():
        raise CheckpointError(f"{path} has no {WEIGHTS}; name a folder that petseg-export --hub wrote")
    if util.find_spec("safetensors") is None:
        raise PetsegError(f"reading {file} needs safetensors; install with: pip install 'petseg[export]'")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights: dict[str, torch.Tensor] = load_file(file)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{file} is damaged or not a safetensors file ({first[:200]})") from None
    for name, value in weights.items():
        if value.is_complex() or (value.is_floating_point() and not bool(value.isfinite().all())):
            raise CheckpointError(f"{file}: {name[:100]!r} has values that are not finite numbers")
    return HubFolder(config=config, weights=weights)


def _read_config(file: Path) -> HubConfig:
    if not file.is_file():
        raise CheckpointError(f"{file.parent} has no {HUB_CONFIG}; name a folder that petseg-export --hub wrote")
    if file.stat().st_size > _LONGEST_CONFIG:
        raise CheckpointError(f"{file} is damaged: it is longer than any configuration")
    try:
        document = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        raise CheckpointError(f"{file} is damaged: it is not JSON") from None
    facts = document.get("petseg") if isinstance(document, dict) else None
    if not isinstance(facts, dict):
        raise CheckpointError(f"{file} is not of petseg: it has no object named petseg")
    if facts.get("version") != VERSION:
        raise CheckpointError(
            f"{file} has version {facts.get('version')!r}, this program reads version {VERSION}; use the program that "
            "wrote it"
        )
    try:
        config = msgspec.convert(facts, HubConfig)
        config.model.check()
        config.labels.check()
        parse_run_size(config.size)
    except (msgspec.ValidationError, PetsegError) as error:
        raise CheckpointError(f"{file} is damaged: {str(error)[:200]}") from None
    if config.model.classes != len(config.labels):
        raise CheckpointError(f"{file} is damaged: {config.model.classes} classes, but {len(config.labels)} labels")
    return config
