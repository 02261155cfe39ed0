"""A run that diverges: what it reports, and which checkpoint is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace

import petseg
from petseg.host.device import choose_placement
from petseg.host.stop_signals import DivergedError
from petseg.nets.model_config import ModelConfig
from petseg.optim.learning_rate import learning_rate_at
from petseg.report.artifacts import read_history
from petseg.runs.recipe import default_recipe
from petseg.training.step import TrainStep
from pipeline import Loader
from shards import ShardSet

pytestmark = pytest.mark.usefixtures("no_report")
TINY: dict[str, Any] = {"size": 32, "widths": (8, 16), "epochs": 2, "batch_size": 8, "threads": 1}


def test_a_diverging_run_reports_the_step_its_images_and_what_to_do(synthetic_set: Path, tmp_path: Path) -> None:
    options = {**TINY, "lr": 1e30, "schedule": "constant", "clip_norm": 0.0, "checkpoint_steps": 1}
    with pytest.raises(DivergedError) as error:
        petseg.train(synthetic_set, run=tmp_path / "run", options=options)
    message = str(error.value)
    split = ShardSet.open(synthetic_set).split("train")
    keys = {split.key(index) for index in range(len(split))}
    named = message.split("images ")[1].split(";", maxsplit=1)[0].split(", ")
    assert set(named) <= keys
    assert len(named) == 8
    # The first update makes the weights non-finite, which is noticed before they are saved.
    assert "step 1 (epoch 1, batch 1)" in message
    assert "no checkpoint was written before it" in message
    assert "smaller --lr" in message
    assert not (tmp_path / "run" / "last.pt").exists()


def test_the_last_checkpoint_of_a_diverging_run_is_a_good_one(synthetic_set: Path, tmp_path: Path, monkeypatch) -> None:
    def explode(step: int, **arguments: Any) -> float:
        return learning_rate_at(step, **arguments) * (1e30 if step == 4 else 1)

    options = {**TINY, "clip_norm": 0.0, "checkpoint_steps": 1, "epochs": 3}
    with monkeypatch.context() as patch:
        patch.setattr("petseg.training.step.learning_rate_at", explode)
        with pytest.raises(DivergedError, match=r"right after the update at step 5 \(epoch 2, batch 2\)") as error:
            petseg.train(synthetic_set, run=tmp_path / "run", options=options)
    assert f"the last good checkpoint is {tmp_path / 'run' / 'last.pt'} (step 4)" in str(error.value)
    petseg.train(run=tmp_path / "run", resume=True)  # which proves that it was
    assert len(read_history(tmp_path / "run")) == 3


def test_weights_that_diverge_only_in_validation(synthetic_set: Path, tmp_path: Path, monkeypatch) -> None:
    nothing = torch.tensor(float("nan"))
    monkeypatch.setattr(TrainStep, "validation_loss", lambda self, logits, batch: nothing)
    monkeypatch.setattr(TrainStep, "loss_without_update", lambda self, batch, **arguments: torch.tensor(1.0))
    with pytest.raises(DivergedError, match="the validation loss became nan in epoch 1"):
        petseg.train(synthetic_set, run=tmp_path / "run", options=TINY)


def test_checking_weights_changes_nothing(synthetic_set: Path) -> None:
    """Neither in the network nor in the run: see also test_resume, whose runs save at every step or at none."""
    recipe = replace(default_recipe("unet"), model=ModelConfig(widths=(8, 16)), batch_size=8)
    train_step = TrainStep(recipe, total_steps=9, placement=choose_placement(torch.device("cpu"), "fp32"))
    with Loader(synthetic_set, split="train", batch_size=8, size=32, mask="index", device="cpu") as loader:
        batch = next(iter(loader))
    before = {name: value.clone() for name, value in train_step.model.state_dict().items()}
    loss = train_step.loss_without_update(batch, global_valid=8)
    assert all(torch.equal(value, before[name]) for name, value in train_step.model.state_dict().items())
    assert train_step.run(batch, global_valid=8, step=0).loss == pytest.approx(float(loss), rel=1e-5)
