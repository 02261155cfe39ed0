"""How far a run says that it is, against the rest of its checkpoint: a later one would repeat what is wrong with it."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
from sample_runs import ENTRY, sample_checkpoint

import petseg
from petseg.host.stop_signals import InterruptedRunError
from petseg.report.console_reporter import Reporter
from petseg.runs.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from petseg.training.progress import Progress, read_progress
from shards.errors import PetsegError

COUNTS = [[3, 1], [0, 2]]
SOUND: dict[str, Any] = {"epoch": 1, "step": 9, "pictures": 6, "loss_sum": 3.5, "confusion": COUNTS, "seconds": 1.5}
SOUND |= {"best_score": 0.5, "best_epoch": 1}


def progress(position: dict[str, Any], **changes: Any) -> Progress:
    checkpoint = msgspec.structs.replace(sample_checkpoint(), loader={"epoch": position["epoch"]})
    return read_progress(msgspec.structs.replace(checkpoint, position=position, **changes))


@pytest.mark.parametrize("phase", ["train", "validate"])
def test_what_agrees_is_read(phase: str) -> None:
    found = progress({**SOUND, "phase": phase})
    assert (found.epoch, found.images, found.confusion, found.phase) == (1, 6, COUNTS, phase)
    assert progress({"epoch": 2, "finished": True}, history=[ENTRY, ENTRY], loader=None).finished


@pytest.mark.parametrize(
    ("position", "changes"),
    [
        ({"epoch": 2**63}, {}),
        ({"epoch": -1}, {}),
        ({"epoch": 3}, {}),
        ({"epoch": 1}, {"history": []}),
        ({"epoch": 1}, {"loader": {"epoch": 4}}),
        ({"epoch": 1}, {"loader": {}}),
        ({"step": -5}, {}),
        ({"step": 2**64 - 1}, {}),
        ({"pictures": 2**62}, {}),
        ({"pictures": 0, "phase": "validate"}, {}),
        ({"loss_sum": 1e308}, {}),
        ({"seconds": -1e300}, {}),
        ({"best_epoch": 2**70}, {}),
        ({"best_epoch": 0}, {}),
        ({"best_epoch": 2}, {}),
        ({"best_score": 1.0}, {}),  # no epoch would ever be better
        ({"best_score": None}, {}),
        ({"stale_epochs": -1}, {}),
        ({"confusion": [[1]]}, {}),
        ({"confusion": [[1, 2], [3]]}, {}),
        ({"confusion": [[1, 2], [3, -4]]}, {}),
    ],
)
def test_what_contradicts_itself_is_damaged(position: dict[str, Any], changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="is damaged"):
        progress({**SOUND, **position}, **changes)


@pytest.fixture(scope="module")
def stopped(synthetic_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped within its second epoch, of four batches."""

    class Stopping(Reporter):
        batches = 0

        def batch(self, **facts: object) -> None:
            self.batches += 1
            if self.batches == 5:
                os.kill(os.getpid(), signal.SIGTERM)

    run = tmp_path_factory.mktemp("stopped") / "run"
    options = {"size": 32, "widths": (8, 16), "epochs": 2, "batch_size": 5, "threads": 1, "augment": "none"}
    with pytest.raises(InterruptedRunError):
        petseg.train(synthetic_set, run=run, options=options, make_reporter=Stopping)
    return run


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("loader", {"batch": 400}, "the saved loader state is damaged: epoch 1, batch 400 of 4"),
        ("loader", {"batch": 1}, "it is after step 6, its epochs and its loader are not"),
        ("loader", {"seed": 9}, "the saved loader state does not fit this loader; seed: saved 9, now 0"),
        ("position", {"step": 10**15}, "it is after step 1000000000000000"),
        ("position", {"pictures": 11}, "it counts 11 images of an epoch after 2 batches"),
        ("position", {"confusion": [[10**15, 0, 0]] * 3}, "it counts more pixels than its images have"),
        ("optimizer", {"exp_avg_sq": -1.0}, "exp_avg_sq of a parameter has values below 0"),
        ("optimizer", {"step": -7.0}, "step of a parameter has values below 0"),
    ],
)
def test_what_cannot_be_continued_changes_nothing(
    stopped: Path, tmp_path: Path, part: str, changes: dict[str, Any], message: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    checkpoint = load_checkpoint(run / "last.pt")
    if part == "optimizer":
        for state in checkpoint.optimizer["state"].values():
            for name in changes.keys() & state.keys():
                state[name].fill_(changes[name])
    else:
        getattr(checkpoint, part).update(changes)
    save_checkpoint(run / "last.pt", checkpoint)
    names = ("config.json", "config.toml", "metrics.jsonl", "last.pt", "best.pt")
    before = {name: (run / name).read_bytes() for name in names}
    with pytest.raises(PetsegError) as error:
        petseg.train(run=run, resume=True)
    assert message in str(error.value)
    assert {name: (run / name).read_bytes() for name in names} == before


def changed_moments(stopped: Path, run: Path, change: Callable[[torch.Tensor], torch.Tensor], name: str) -> Path:
    """A run whose last checkpoint has other tensors of this name in its optimiser's state."""
    shutil.copytree(stopped, run)
    checkpoint = load_checkpoint(run / "last.pt")
    for state in checkpoint.optimizer["state"].values():
        if name in state:
            state[name] = change(state[name])
    save_checkpoint(run / "last.pt", checkpoint)
    return run


@pytest.mark.parametrize("name", ["exp_avg", "exp_avg_sq", "step", "mean"])
@pytest.mark.parametrize("values", [0, 1, 7])
def test_an_optimiser_gets_tensors_of_its_parameters_shapes(
    stopped: Path, tmp_path: Path, name: str, values: int
) -> None:
    """Fused kernels read and write beyond smaller ones, which ends the process; one number may be broadcast."""
    run = changed_moments(stopped, tmp_path / "run", lambda _: torch.zeros(values), name)
    with pytest.raises(PetsegError, match=rf"last\.pt is damaged.*{name} (is float32|has the shape)"):
        petseg.train(run=run, resume=True)


def test_fused_kernels_get_tensors_that_lie_as_their_parameters(stopped: Path, tmp_path: Path, no_report: None) -> None:
    runs = [tmp_path / "as-written", tmp_path / "strided"]
    same, spread = changed_moments(stopped, runs[0], lambda value: value, "exp_avg"), runs[1]
    changed_moments(stopped, spread, lambda value: torch.stack([value, value], dim=-1)[..., 0], "exp_avg")
    for run in (same, spread):
        petseg.train(run=run, resume=True)
    first, second = (load_checkpoint(run / "last.pt").model for run in (same, spread))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_can_be_continued_is(stopped: Path, tmp_path: Path, no_report: None) -> None:
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    petseg.train(run=run, resume=True)
    assert len(json.loads((run / "config.json").read_text())["resumed"]) == 1
    assert load_checkpoint(run / "last.pt").position["step"] == 8


def test_the_rate_of_an_epoch_counts_the_step_before_each_interruption(
    synthetic_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("petseg.training.loop.time", SimpleNamespace(monotonic=lambda: clock.now))

    class Stopping(Reporter):
        def batch(self, **facts: object) -> None:
            clock.now += 2.0
            os.kill(os.getpid(), signal.SIGTERM)

    run = tmp_path / "run"
    options = {"size": 32, "widths": (8, 16), "epochs": 1, "batch_size": 5, "threads": 1, "checkpoint_steps": 1}
    for given in ({"shards": synthetic_set, "options": options}, {"resume": True}):
        with pytest.raises(InterruptedRunError):
            petseg.train(run=run, make_reporter=Stopping, **given)
        position = load_checkpoint(run / "last.pt").position
        assert position["train_seconds"] == 2 * position["step"] > 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_while_a_finished_run_is_opened(tiny_run: Path, tmp_path: Path, number: int, code: int) -> None:
    """No step is left that would look for it; the report, which takes long, is left to the next time."""

    class Stopping(Reporter):
        def start_run(self, **facts: object) -> None:
            os.kill(os.getpid(), number)

    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    (run / "report.html").unlink()
    with pytest.raises(
        InterruptedRunError, match=f"^stopped; .*petseg-train --resume --run {run} draws it$"
    ) as stopped:
        petseg.train(run=run, resume=True, make_reporter=Stopping)
    assert (stopped.value.exit_code, (run / "report.html").exists()) == (code, False)
