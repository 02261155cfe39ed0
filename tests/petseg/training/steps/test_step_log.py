"""What the host learns of steps, and when: in blocks, all of it, once; a run's results do not depend on how often."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import petseg
from petseg.host.distributed import World
from petseg.host.stop_signals import DivergedError
from petseg.report.console_reporter import Reporter
from petseg.runs.checkpoint import load_checkpoint
from petseg.runs.run_folder import read_metrics
from petseg.training.step import StepResult, TrainStep
from petseg.training.step_log import LaunchedStep, StepLog

TINY: dict[str, Any] = {"size": 32, "widths": (8, 16), "epochs": 2, "batch_size": 8, "threads": 1}


def launched(step: int) -> LaunchedStep:
    return LaunchedStep(torch.arange(2), batch=step - 1, valid=step, step=step, epoch=0)


def test_blocks_hold_every_step_once() -> None:
    log, counts = StepLog(torch.device("cpu"), World(), 3), torch.zeros(2, 2, dtype=torch.int64)
    seen = list[tuple[int, float, bool, float, int]]()
    for step in range(1, 9):
        counts += 1
        result = StepResult(torch.tensor([step / 2, 1.0, float(step == 5), 4.0, step - 1.0]), counts)
        full = log.add(result, launched(step))
        assert full == (step in (3, 6))
        if full:
            assert log.unread_images == sum((step - 2, step - 1, step))
            log.finish_block(counts, stop=step == 6, save=False)
            (block,) = log.read_blocks()
            assert block.confusion[0, 0] == step
            assert block.stop == (step == 6)
            seen += [(f.launched.step, f.loss, f.skipped, f.scale, f.valid) for f in block.steps]
    assert log.partial
    log.finish_block(counts, stop=False, save=True)
    (block,) = log.read_blocks(all_of_them=True)
    assert block.save
    assert [facts.launched.step for facts in block.steps] == [7, 8]
    assert seen == [(step, step / 2, step == 5, 4.0, step - 1) for step in range(1, 7)]
    assert not log.partial
    assert not log.unread_images


class Counting(Reporter):
    def __init__(self) -> None:
        self.images = list[int]()

    def batch(self, *, images: int, **facts: Any) -> None:
        self.images.append(images)


@pytest.mark.usefixtures("no_report")
def test_how_often_is_looked_changes_no_result(synthetic_set: Path, tmp_path: Path) -> None:
    """Three steps an epoch are seen one by one, two and one, or together."""
    weights, losses = [], []
    for every, expected in ((1, [8, 8, 8]), (2, [16, 8]), (50, [24])):
        reporter = Counting()
        options = {**TINY, "log_every": every}
        run = petseg.train(
            synthetic_set, run=tmp_path / str(every), options=options, make_reporter=lambda r=reporter: r
        )
        assert reporter.images == expected * 2
        weights.append(load_checkpoint(run / "last.pt").model)
        losses.append([entry["train"]["loss"] for entry in read_metrics(run)])
    assert losses[0] == losses[1] == losses[2]
    for other in weights[1:]:
        assert all(torch.equal(value, weights[0][name]) for name, value in other.items())


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("every", [1, 50])
def test_a_bad_gradient_is_named_however_late_it_is_seen(
    synthetic_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    """And it has not reached the weights: later steps are good again."""
    update, steps = TrainStep._update, list[TrainStep]()

    def spoilt(self: TrainStep, loss: torch.Tensor) -> Any:
        steps.append(self)
        if len(steps) == 2:
            next(self.model.parameters()).grad.fill_(float("nan"))
        return update(self, loss)

    monkeypatch.setattr(TrainStep, "_update", spoilt)
    message = r"the gradient became nan at step 2 \(epoch 1, batch 2\), images .*; 1 update was skipped until"
    with pytest.raises(DivergedError, match=message):
        petseg.train(synthetic_set, run=tmp_path / "run", options={**TINY, "log_every": every})
    assert len(steps) == (2 if every == 1 else 3)
    assert all(parameter.isfinite().all() for parameter in steps[0].model.parameters())


@pytest.mark.usefixtures("no_report")
def test_an_epoch_reads_a_block_at_a_time(synthetic_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a long block, no value is read between two steps, neither by the loop nor by the step."""
    run, reads = TrainStep.run, list[str]()

    def counted(self: TrainStep, *args: Any, **named: Any) -> StepResult:
        reads.append("step")
        return run(self, *args, **named)

    monkeypatch.setattr(TrainStep, "run", counted)
    for name in ("item", "tolist", "cpu", "__bool__", "__float__"):
        read = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda self, *a, _read=read, _name=name: (reads.append(_name), _read(self, *a))[1]
        )
    petseg.train(synthetic_set, run=tmp_path / "run", options={**TINY, "epochs": 1, "log_every": 50})
    first, last = reads.index("step"), len(reads) - reads[::-1].index("step")
    assert reads[first:last] == ["step"] * 3
    assert "tolist" in reads[last:]
