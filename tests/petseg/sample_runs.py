"""Trainings without their report, and checkpoints without a training: what most tests need, in little time."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import torch

import petseg
from petseg.runs.checkpoint import Checkpoint
from petseg.runs.recipe import default_recipe
from shards.format.builtin_labels import BINARY

SCORES = {"loss": 0.1, "pixel_accuracy": 0.5, "iou": [0.5, None], "mean_iou": 0.5, "mean_dice": 0.5}
ENTRY = {"epoch": 1, "train": SCORES, "val": None, "learning_rate": 0.1, "best": True}
ENTRY |= {"size": [32, 32], "pictures_per_second": 1.5, "wait_share": 0.0}


def sample_checkpoint() -> Checkpoint:
    """A whole checkpoint with a tiny state."""
    config = msgspec.to_builtins(default_recipe("unet"))
    config["model"]["classes"] = len(BINARY)
    return Checkpoint(
        config=config,
        labels=BINARY,
        position={"epoch": 1},
        history=[ENTRY],
        loader={"batch": 3},
        model={"w": torch.arange(1000.0)},
        average=None,
        optimizer={"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        scaler={},
    )


def draw_nothing(run: Path, **arguments: Any) -> None:
    """Only create the report's file."""
    (run / "report.html").write_text("not drawn")


def train_undrawn(**arguments: Any) -> Path:
    """:func:`petseg.train` without the report, which takes longer than the training; for other processes."""
    with mock.patch("petseg.training.start.draw_run", draw_nothing):
        return petseg.train(**arguments)


def damaged_copy(shards: Path, out: Path) -> Path:
    """Copy a set, with a flipped bit in two of its training images."""
    shutil.copytree(shards, out)
    for tar in sorted(out.glob("train-*.tar"))[:2]:
        data = bytearray(tar.read_bytes())
        data[700] ^= 1  # in the first member, behind its header of 512 bytes
        tar.write_bytes(data)
    return out
