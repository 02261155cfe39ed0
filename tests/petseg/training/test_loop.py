"""The loop over epochs: output, validation, early stopping, checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import petseg
from petseg.cli import train
from petseg.report.artifacts import read_history
from petseg.report.console_reporter import Reporter
from petseg.runs.checkpoint import load_checkpoint
from petseg.training.losses import balanced_class_weights
from shards import ShardSet

TINY: dict[str, Any] = {"size": 32, "widths": (8, 16), "epochs": 2, "batch_size": 8, "threads": 1}
TINY_ARGUMENTS = ["--size", "32", "--widths", "8,16", "--epochs", "2", "--batch-size", "8", "--threads", "1"]

# Neither weights nor images change much: only the statistics of batch normalisation do.
STEADY = {"lr": 1e-30, "progressive": False, "augment": "none", "stem": "full", "join": "concat"}


def test_the_command_prints_a_line_an_epoch_or_json(call, made_up_set: Path, tmp_path: Path) -> None:
    result = call(train, "--shards", made_up_set, "--run", tmp_path / "a", *TINY_ARGUMENTS)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["epoch", "1/2"], ["epoch", "2/2"]]
    assert "petseg-eval" in lines[2]
    result = call(train, "--shards", made_up_set, "--run", tmp_path / "b", *TINY_ARGUMENTS, "--json")
    document = json.loads(result.out)
    assert document["run"] == str(tmp_path / "b")
    assert document["epoch"] == 2
    # The same seed gives the same weights; another one others.
    a, b = (load_checkpoint(tmp_path / name / "last.pt").model for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_tutorials_recipe_trains(call, made_up_set: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = call(train, "--shards", made_up_set, "--run", run, "--model", "tutorial", "--size", "32", "--epochs", "1")
    assert result.code == 0, result.err
    recipe = json.loads((run / "config.json").read_text())["recipe"]
    assert (recipe["batch_size"], recipe["lr"], recipe["optimizer"], recipe["augment"]) == (32, 1e-3, "adam", "none")
    checkpoint = load_checkpoint(run / "best.pt")
    assert checkpoint.average is None


def test_patience_stops_early(made_up_set: Path, tmp_path: Path) -> None:
    notes: list[str] = []

    class Listening(Reporter):
        def note(self, text: str) -> None:
            notes.append(text)

    options = {**TINY, **STEADY, "epochs": 9, "patience": 2}  # nothing is learnt, so nothing gets better
    run = petseg.train(made_up_set, run=tmp_path / "run", options=options, make_reporter=Listening)
    assert len(read_history(run)) == 3
    assert "stopping early" in notes[-1]


class Counting(Reporter):
    """Counts validations and keeps notes."""

    def __init__(self) -> None:
        self.validations, self.notes = 0, list[str]()

    def start_validation(self, *, images: int) -> None:
        self.validations += 1

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_validating_less_often(made_up_set: Path, tmp_path: Path) -> None:
    """Every second epoch and the last; the weights do not notice, and the best is one of those validated."""
    counted = Counting()
    options = {**TINY, "epochs": 5}
    often = petseg.train(made_up_set, run=tmp_path / "often", options=options)
    rarely = petseg.train(
        made_up_set, run=tmp_path / "rarely", options={**options, "validate_every": 2}, make_reporter=lambda: counted
    )
    assert counted.validations == 3
    history = read_history(rarely)
    assert [entry["epoch"] for entry in history if entry["val"]] == [2, 4, 5]
    for ours, theirs in zip(history, read_history(often), strict=True):
        assert ours["val"] in (None, theirs["val"])
        assert ours["train"] == theirs["train"]
    a, b = (load_checkpoint(run / "last.pt").model for run in (often, rarely))
    assert all(torch.equal(a[name], b[name]) for name in a)
    validated = [entry for entry in history if entry["val"]]
    best = max(validated, key=lambda entry: entry["val"]["mean_iou"])
    assert load_checkpoint(rarely / "best.pt").position["best_epoch"] == best["epoch"]
    assert [entry["epoch"] for entry in history if entry["best"]][-1] == best["epoch"]
    report = (rarely / "report.html").read_text()
    assert f"The weights of epoch {best['epoch']} (of 5)" in report
    row = report[report.index("<td>1</td>") : report.index("<td>2")]
    assert row.count("<td>-</td>") == 5  # what was not measured is not shown: loss, mean IoU, three classes


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_compiling_on_a_cpu_is_told_not_refused(made_up_set: Path, tmp_path: Path, monkeypatch) -> None:
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch, "compile", lambda network: (compiled.append(network), network)[1])
    monkeypatch.setenv("CXX", "true")  # any program that is there
    counted = Counting()
    options = {**TINY, "epochs": 1, "compile": True}
    petseg.train(made_up_set, run=tmp_path / "run", options=options, make_reporter=lambda: counted)
    assert len(compiled) == 1
    assert "made steps no faster" in counted.notes[0]


def test_patience_counts_epochs_where_not_all_are_validated(made_up_set: Path, tmp_path: Path) -> None:
    options = {**TINY, **STEADY, "epochs": 9, "patience": 3, "validate_every": 2}
    counted = Counting()
    run = petseg.train(made_up_set, run=tmp_path / "run", options=options, make_reporter=lambda: counted)
    assert len(read_history(run)) == 6  # epoch 2 is the best, 4 is two epochs later, 6 is four
    assert "no better epoch than 2 in 3: stopping early" in counted.notes


@pytest.mark.parametrize("options", [{"checkpoint_steps": 1}, {"checkpoint_minutes": 1e-9}], ids=str)
def test_checkpoints_within_an_epoch(made_up_set: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    steps: list[int] = []

    class Looking(Reporter):
        def batch(self, **facts: Any) -> None:
            if (tmp_path / "run" / "last.pt").exists():
                steps.append(load_checkpoint(tmp_path / "run" / "last.pt").position["step"])

    petseg.train(made_up_set, run=tmp_path / "run", options={**TINY, **options, "epochs": 1}, make_reporter=Looking)
    assert steps == [1, 2]  # of three steps; seen at the one after


def test_without_a_validation_split(made_up_pets: Path, tmp_path: Path, command) -> None:
    out = tmp_path / "set"
    command("petseg-shard", "build", made_up_pets, out, "--split", "random", "--fractions", "1,0,0")
    run = petseg.train(out, run=tmp_path / "run", options={**TINY, "epochs": 1, "class_weights": "balanced"})
    assert read_history(run)[0]["val"] is None
    assert "train split" in (run / "report.html").read_text()
    assert balanced_class_weights(ShardSet.open(out).manifest.splits["train"].class_pixels)[2] > 1


def test_tensorboard(made_up_set: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = petseg.train(made_up_set, run=tmp_path / "run", options={**TINY, "tensorboard": True})
    events = EventAccumulator(str(run / "events"))
    events.Reload()
    written = [(event.step, event.value) for event in events.Scalars("mean_iou/val")]
    assert written == [(e["epoch"], pytest.approx(e["val"]["mean_iou"])) for e in read_history(run)]


def test_a_disk_that_is_full_costs_one_checkpoint_only(made_up_set: Path, tmp_path: Path, monkeypatch) -> None:
    import errno

    from petseg.training import loop as trainer
    from shards import PetsegError

    real, count = trainer.save_checkpoint, iter(range(99))

    def full(path: Path, checkpoint: Any) -> None:
        if next(count) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, checkpoint)

    monkeypatch.setattr(trainer, "save_checkpoint", full)
    run = tmp_path / "run"
    with pytest.raises(PetsegError, match=rf"No space left on device.*--resume --run {run}"):
        petseg.train(made_up_set, run=run, options={**TINY, "checkpoint_steps": 1})
    assert load_checkpoint(run / "last.pt").position["step"] == 2
    monkeypatch.undo()
    petseg.train(run=run, resume=True)
    assert len(read_history(run)) == 2
