"""A run that diverges: what it reports, and which checkpoint is kept."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from msgspec.structs import replace

import petseg
from petseg.host.device import Placement, choose_placement
from petseg.host.distributed import World
from petseg.host.stop_signals import DivergedError
from petseg.nets.model_config import ModelConfig
from petseg.optim.learning_rate import learning_rate_at
from petseg.runs.checkpoint import load_checkpoint
from petseg.runs.recipe import default_recipe
from petseg.runs.run_folder import read_metrics
from petseg.training.guard import DivergenceGuard
from petseg.training.step import TrainStep
from petseg.training.step_log import LaunchedStep, StepFacts, StepLog
from pipeline import Batch, Loader
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
    assert message.endswith("start again with a smaller lr, or with clip_norm=1")  # it is in fp32
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
    assert len(read_metrics(tmp_path / "run")) == 3


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 1e36])
def test_weights_that_diverge_only_in_validation(
    synthetic_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    """No checkpoint is written that could not be read again."""
    monkeypatch.setattr(TrainStep, "validation_loss", lambda self, logits, batch: torch.tensor(value))
    monkeypatch.setattr(TrainStep, "loss_without_update", lambda self, batch, **arguments: torch.tensor(1.0))
    with pytest.raises(DivergedError, match=r"the validation loss became (nan|-inf|[\d.]+e\+3\d) in epoch 1"):
        petseg.train(synthetic_set, run=tmp_path / "run", options=TINY)
    assert not (tmp_path / "run" / "last.pt").exists()


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_checking_weights_changes_nothing(synthetic_set: Path, accumulate: int) -> None:
    """Neither in the network nor in the run: see also test_resume, whose runs save at every step or at none.

    And it computes what a step does, micro-batch by micro-batch: their statistics are those of the loss.
    """
    recipe = replace(default_recipe("unet"), model=ModelConfig(widths=(8, 16)), batch_size=8, accumulate=accumulate)
    train_step = TrainStep(recipe, total_steps=9, placement=choose_placement(torch.device("cpu"), "fp32"))
    with Loader(synthetic_set, split="train", batch_size=8, size=32, mask="index", device="cpu") as loader:
        batch = next(iter(loader))
    before = {name: value.clone() for name, value in train_step.model.state_dict().items()}
    sizes = list[int]()
    train_step.model.normalise.register_forward_hook(lambda module, images, out: sizes.append(len(out)))
    loss = train_step.loss_without_update(batch, global_valid=8)
    assert sizes == {1: [8], 2: [4, 4], 3: [3, 3, 2]}[accumulate]
    assert all(torch.equal(value, before[name]) for name, value in train_step.model.state_dict().items())
    assert train_step.run(batch, global_valid=8, step=0).loss == pytest.approx(float(loss), rel=1e-5)


def test_a_heavy_dice_loss_is_no_divergence(synthetic_set: Path, tmp_path: Path) -> None:
    options = {**TINY, "epochs": 1, "dice_weight": 200.0}
    run = petseg.train(synthetic_set, run=tmp_path / "run", options=options)
    (entry,) = read_metrics(run)
    assert entry["train"]["loss"] > 100
    assert load_checkpoint(run / "last.pt").position["skipped"] == 0


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 101.5, -101.5])
def test_a_loss_is_judged_by_itself(loss: float, tmp_path: Path) -> None:
    """In fp16, too, where gradients that are not finite are no reason to end a run."""
    train_step: Any = SimpleNamespace(
        scaler=SimpleNamespace(is_enabled=lambda: True),
        max_loss=101.0,
        recipe=SimpleNamespace(clip_norm=0.0),
        placement=SimpleNamespace(precision="fp16"),
    )
    guard = DivergenceGuard(train_step, world=World(), checkpoint=tmp_path / "last.pt", key=str)
    launched = LaunchedStep(torch.arange(2), 0, 2, step=1, epoch=0)
    guard.check_step(StepFacts(launched, loss=100.5, grad_norm=float("inf"), skipped=True, scale=1.0, valid=4))
    advice = "a smaller lr, or with clip_norm=1, or with precision='fp32'"
    with pytest.raises(DivergedError, match=f"the loss became {loss:g} at step 1 .* again with {advice}$"):
        guard.check_step(StepFacts(launched, loss=loss, grad_norm=1.0, skipped=True, scale=1.0, valid=4))


@pytest.mark.parametrize(("overflows", "noticed"), [(lambda step: True, 26), (lambda step: step % 3 == 0, 76)])
def test_gradients_that_overflow_for_ever_are_noticed(monkeypatch, tmp_path: Path, overflows, noticed: int) -> None:
    """In fp16 single steps may; here the scaler runs, while the network computes in fp32."""
    placement = Placement(torch.device("cpu"), "fp16")
    monkeypatch.setattr(Placement, "autocast", lambda self: torch.autocast("cpu", enabled=False))
    recipe = replace(default_recipe("unet"), model=ModelConfig(widths=(8, 16)), batch_size=2, ema_decay=0.0)
    train_step = TrainStep(recipe, total_steps=99, placement=placement)
    guard = DivergenceGuard(
        train_step, world=World(), checkpoint=tmp_path / "last.pt", key=lambda index: f"cat_{index}"
    )
    now = [0]
    weight = next(train_step.model.parameters())
    weight.register_hook(lambda gradient: gradient * float("inf") if overflows(now[0]) else gradient)
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    batch = Batch(
        image=image, mask=image[:, 0] % 3, index=torch.arange(2), valid=torch.ones(2).bool(), epoch=0, number=0
    )
    log = StepLog(placement.device, World(), 1)

    def train() -> None:
        for step in range(99):
            now[0] = step
            result = train_step.run(batch, global_valid=2, step=step)
            assert bool(result.skipped) == overflows(step)
            log.add(result, LaunchedStep(batch.index, 0, 2, step=step + 1, epoch=0))
            log.finish_block(result.confusion, stop=False, save=False)
            for block in log.read_blocks():
                guard.check_step(block.steps[0])

    with pytest.raises(DivergedError) as error:
        train()
    assert now[0] + 1 == noticed
    for part in (f"at step {noticed} ", "images cat_0, cat_1", "overflow in fp16", "precision='fp32'", "no checkpoint"):
        assert part in str(error.value)
