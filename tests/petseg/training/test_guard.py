"""A run that diverges: what it reports, and which checkpoint is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import petseg
from petseg.host.stop_signals import DivergedError
from petseg.nets.model_config import ModelConfig
from petseg.report.artifacts import read_history
from shards import ShardSet

TINY: dict[str, Any] = {"size": 32, "widths": (8, 16), "epochs": 2, "batch_size": 8, "threads": 1}
TINY_ARGUMENTS = ["--size", "32", "--widths", "8,16", "--epochs", "2", "--batch-size", "8", "--threads", "1"]


def test_a_diverging_run_says_what_where_and_what_is_left(made_up_set: Path, tmp_path: Path) -> None:
    options = {**TINY, "lr": 1e30, "schedule": "constant", "clip_norm": 0.0, "checkpoint_steps": 1}
    with pytest.raises(DivergedError) as error:
        petseg.train(made_up_set, run=tmp_path / "run", options=options)
    message = str(error.value)
    split = ShardSet.open(made_up_set).split("train")
    keys = {split.key(index) for index in range(len(split))}
    named = message.split("pictures ")[1].split(";", maxsplit=1)[0].split(", ")
    assert set(named) <= keys
    assert len(named) == 8
    # The first update spoils the weights, which is seen before they are kept.
    assert "step 1 (epoch 1, batch 1)" in message
    assert "no checkpoint was written before it" in message
    assert "smaller --lr" in message
    assert not (tmp_path / "run" / "last.pt").exists()


def test_the_last_checkpoint_of_a_diverging_run_is_a_good_one(made_up_set: Path, tmp_path: Path, monkeypatch) -> None:
    from petseg.training import step as learner

    real = learner.learning_rate
    monkeypatch.setattr(learner, "learning_rate", lambda step, **more: real(step, **more) * (1e30 if step == 4 else 1))
    options = {**TINY, "clip_norm": 0.0, "checkpoint_steps": 1, "epochs": 3}
    with pytest.raises(DivergedError, match=r"right after the update at step 5 \(epoch 2, batch 2\)") as error:
        petseg.train(made_up_set, run=tmp_path / "run", options=options)
    assert f"the last good checkpoint is {tmp_path / 'run' / 'last.pt'} (step 4)" in str(error.value)
    monkeypatch.undo()
    petseg.train(run=tmp_path / "run", resume=True)  # which proves that it was
    assert len(read_history(tmp_path / "run")) == 3


def test_weights_that_only_validation_finds_spoilt(made_up_set: Path, tmp_path: Path, monkeypatch) -> None:
    from petseg.training.step import TrainStep

    nothing = torch.tensor(float("nan"))
    monkeypatch.setattr(TrainStep, "validation_loss", lambda self, logits, batch: nothing)
    monkeypatch.setattr("petseg.training.guard.trial_loss", lambda *given, **more: torch.tensor(1.0))
    with pytest.raises(DivergedError, match="the validation loss became nan in epoch 1"):
        petseg.train(made_up_set, run=tmp_path / "run", options=TINY)


def test_trying_weights_out_leaves_no_trace(made_up_set: Path, tmp_path: Path) -> None:
    """Neither in the network nor in the run: see also test_resume, whose runs save at every step or at none."""
    from msgspec.structs import replace
    from petseg.training.trial import trial_loss

    from petseg.host.device import choose_placement
    from petseg.runs.recipe import default_recipe
    from petseg.training.step import TrainStep
    from pipeline import Loader

    recipe = replace(default_recipe("unet"), model=ModelConfig(widths=(8, 16)), batch_size=8)
    learner = TrainStep(recipe, total_steps=9, placement=choose_placement(torch.device("cpu"), "fp32"))
    with Loader(made_up_set, split="train", batch_size=8, size=32, mask="index", device="cpu") as loader:
        batch = next(iter(loader))
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    loss = trial_loss(learner, batch, global_valid=8)
    assert all(torch.equal(value, before[name]) for name, value in learner.model.state_dict().items())
    assert learner.step(batch, global_valid=8, step=0).loss == pytest.approx(float(loss), rel=1e-5)
