"""The files of a network in the layout of a Hugging Face repository, as ``petseg-export --hub`` writes it.

README.md            the model card, its facts in YAML at the top
config.json          architecture, labels, size and fit, under ``petseg``
model.safetensors    the (averaged) weights; its metadata say what ``--init-from`` needs
use.py               a program that predicts one image with these files alone
"""

from typing import Any

import msgspec

from petseg.nets.model_config import ModelConfig
from shards.format.geometry import Fit, Size
from shards.format.labels import Labels

CARD = "README.md"
HUB_CONFIG = "config.json"
PROGRAM = "use.py"
HUB_VERSION = 1


class HubConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What ``config.json`` has under ``petseg``.

    ``size`` is (height, width) of the images that the network was trained on, ``recipe`` all options of its training,
    for people.
    """

    version: int
    model: ModelConfig
    labels: Labels
    size: Size
    fit: Fit
    recipe: dict[str, Any] = {}
