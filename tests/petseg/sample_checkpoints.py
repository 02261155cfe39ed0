"""A checkpoint as tests need it: whole, with a tiny state."""

from __future__ import annotations

import msgspec
import torch

from petseg.runs.checkpoint import Checkpoint
from petseg.runs.recipe import default_recipe
from shards.format.builtin_labels import BINARY

SCORES = {"loss": 0.1, "pixel_accuracy": 0.5, "iou": [0.5, None], "mean_iou": 0.5, "mean_dice": 0.5}
ENTRY = {"epoch": 1, "train": SCORES, "val": None, "learning_rate": 0.1, "best": True}
ENTRY |= {"pictures_per_second": 1.5, "wait_share": 0.0}


def sample_checkpoint() -> Checkpoint:
    return Checkpoint(
        config=msgspec.to_builtins(default_recipe("unet")),
        labels=BINARY,
        position={"epoch": 1},
        history=[ENTRY],
        loader={"batch": 3},
        model={"w": torch.arange(1000.0)},
        average=None,
        optimizer={"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        scaler={},
    )
