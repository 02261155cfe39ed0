"""How a training starts: from other weights, from a configuration file, again after a start that failed."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from labelled_sets import build_labelled, many_labels
from sample_runs import damaged_copy
from store_servers import BUCKET, s3_server

import petseg
from petseg.cli import evaluate as score
from petseg.cli import train
from petseg.host.device import choose_placement
from petseg.host.stop_signals import InterruptedRunError
from petseg.inference.evaluation import evaluate
from petseg.loggers.run_loggers import RunLoggers
from petseg.nets.factory import build_model
from petseg.nets.model_config import ModelConfig
from petseg.report.console_reporter import Reporter
from petseg.runs.checkpoint import load_checkpoint
from petseg.runs.run_folder import read_config
from pipeline import Loader
from shards.build.tasks.set_copy import copy_set
from shards.errors import PetsegError, UsageError

TINY = {"size": 32, "widths": (8, 16), "epochs": 1, "batch_size": 8, "threads": 1, "ema_decay": 0.5}
ARGUMENTS = "--size 32 --widths 8,16 --epochs 1 --batch-size 8 --threads 1 --ema-decay 0.5".split()  # noqa: SIM905

pytestmark = pytest.mark.usefixtures("no_report")


class Listening(Reporter):
    def __init__(self) -> None:
        self.notes = list[str]()

    def note(self, text: str) -> None:
        self.notes.append(text)


class Stopping(Reporter):
    """Ends the training with a signal at its first batch, or as if it were killed."""

    def __init__(self, number: int | None = None) -> None:
        self.number = number

    def batch(self, **facts: Any) -> None:
        if self.number is None:
            raise KeyboardInterrupt
        os.kill(os.getpid(), self.number)


def same_weights(a: Path, b: Path) -> bool:
    first, second = load_checkpoint(a / "last.pt").model, load_checkpoint(b / "last.pt").model
    return all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.fixture(scope="module")
def started(synthetic_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch."""
    run = tmp_path_factory.mktemp("started") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("petseg.training.start.draw_run", lambda run, **_: (run / "report.html").write_text(""))
        return petseg.train(synthetic_set, run=run, options=TINY)


def test_a_run_s_own_file_trains_the_same_network(call, started: Path, tmp_path: Path) -> None:
    result = call(train, "--config", started, "--run", tmp_path / "again")
    assert result.code == 0, result.err
    assert same_weights(started, tmp_path / "again")
    assert (tmp_path / "again" / "config.toml").read_bytes() == (started / "config.toml").read_bytes()


def test_options_win_over_the_file(call, synthetic_set: Path, tmp_path: Path) -> None:
    lines = [f'shards = "{synthetic_set}"', f'run = "{tmp_path / "run"}"', "size = 32", "widths = [8, 16]"]
    (tmp_path / "a.toml").write_text("\n".join([*lines, "batch-size = 8", "epochs = 9", "threads = 1", "seed = 3"]))
    result = call(train, "--config", tmp_path / "a.toml", "--epochs", "1")
    assert result.code == 0, result.err
    recipe = read_config(tmp_path / "run")["recipe"]
    assert (recipe["epochs"], recipe["seed"], recipe["batch_size"], recipe["size"]) == (1, 3, 8, [32, 32])
    (tmp_path / "a.toml").write_text("epochs = 1\nbatchsize = 8")
    result = call(train, "--config", tmp_path / "a.toml", "--shards", synthetic_set)
    assert result.code == 2
    assert f"{tmp_path / 'a.toml'}, line 2: there is no option batchsize; did you mean batch-size?" in result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resume": 1}, "resume 1: choose from True, False, 'auto'"),
        ({"options": 5}, "options must be names with values"),
        ({"options": [("epochs", 1)]}, "options must be names with values"),
        ({"options": {5: 1}}, "options must be names with values"),
        ({"make_reporter": Reporter()}, "make_reporter is called to make a reporter"),
    ],
)
def test_wrong_arguments_from_python(
    synthetic_set: Path, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(petseg.PetsegError, match=message) as raised:
        petseg.train(synthetic_set, run=tmp_path / "run", **arguments)
    assert type(raised.value) is UsageError
    assert not (tmp_path / "run").exists()


def test_a_batch_that_is_larger_than_the_set_is_said(
    synthetic_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("petseg.training.loop.TrainingLoop.run", lambda loop: None)
    monkeypatch.setattr("petseg.training.start.draw_run", lambda *_, **__: None)
    listening = Listening()
    options = {**TINY, "batch_size": 1000}
    petseg.train(synthetic_set, run=tmp_path / "run", options=options, make_reporter=lambda: listening)
    assert any(note.startswith("batch_size=1000: there are ") for note in listening.notes)


def test_starting_from_another_run(started: Path, tmp_path: Path) -> None:
    """Its weights are there at the first step, its head where the classes are as many; config.json says so."""
    out = build_labelled(tmp_path, many_labels(5))
    reporter = Listening()
    run = petseg.train(
        out,
        run=tmp_path / "run",
        options={"init_from": started, "size": 32, "epochs": 1, "batch_size": 8, "lr": 1e-12, "weight_decay": 0.0},
        make_reporter=lambda: reporter,
    )
    source, ours = load_checkpoint(started / "best.pt"), load_checkpoint(run / "last.pt")
    assert ours.recipe.model.widths == (8, 16)  # no option of the network was given
    parameters = [name for name, value in source.weights.items() if "running" not in name and value.ndim]
    for name in parameters:
        if not name.startswith("head"):
            for part in (ours.model, ours.average or {}):
                torch.testing.assert_close(part[name], source.weights[name], rtol=1e-4, atol=1e-6)
    assert ours.model["head.weight"].shape != source.weights["head.weight"].shape
    (note,) = [note for note in reporter.notes if note.startswith("starting from")]
    assert "head.weight" in note
    record = read_config(run)["initialised_from"]
    assert record["path"] == str(started / "best.pt")
    assert len(record["sha256"]) == 64
    assert set(record["left_out"]) == {"head.weight", "head.bias"}


def test_the_options_of_the_network_win_over_the_source(
    call, synthetic_set: Path, started: Path, tmp_path: Path
) -> None:
    arguments = ["--shards", synthetic_set, "--run", tmp_path / "run", "--init-from", started, *ARGUMENTS]
    result = call(train, *arguments, "--blocks", "2")
    assert result.code == 0, result.err
    assert "not in it, so they start from noise" in result.err
    result = call(train, *arguments[:2], "--init-from", tmp_path / "nowhere")
    assert result.code == 2
    assert "no such run, checkpoint or export" in result.err


def test_a_run_that_was_killed_starts_from_the_same_weights(synthetic_set: Path, started: Path, tmp_path: Path) -> None:
    source, run = tmp_path / "source.pt", tmp_path / "run"
    shutil.copy(started / "best.pt", source)
    options = {**TINY, "init_from": source}
    whole = petseg.train(synthetic_set, run=tmp_path / "whole", options=options)
    with pytest.raises(KeyboardInterrupt):
        petseg.train(synthetic_set, run=run, options=options, make_reporter=Stopping)
    assert not (run / "last.pt").exists()
    data = source.read_bytes()
    shutil.copy(started / "last.pt", source)
    with pytest.raises(UsageError, match="has changed since"):
        petseg.train(run=run, resume=True)
    source.write_bytes(data)
    with pytest.raises(InterruptedRunError):
        petseg.train(run=run, resume=True, make_reporter=lambda: Stopping(signal.SIGUSR1))
    source.unlink()  # not needed any more: the run has a checkpoint
    petseg.train(run=run, resume=True)
    assert same_weights(run, whole)


def test_resume_auto_starts_continues_and_ends(
    call, synthetic_set: Path, started: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each time the loggers learn whether the run has ended."""
    run, closed, close = tmp_path / "run", list[bool](), RunLoggers.close
    monkeypatch.setattr(
        RunLoggers, "close", lambda self, *, finished: (closed.append(finished), close(self, finished=finished))
    )
    again = {"run": run, "resume": "auto", "options": TINY}
    with pytest.raises(KeyboardInterrupt):  # before any checkpoint: starts again, also with other options
        petseg.train(synthetic_set, make_reporter=Stopping, **{**again, "options": {**TINY, "seed": 5}})
    with pytest.raises(InterruptedRunError):
        petseg.train(synthetic_set, make_reporter=lambda: Stopping(signal.SIGUSR1), **again)
    step = load_checkpoint(run / "last.pt").position["step"]
    assert step > 0
    reporter = Listening()
    petseg.train(synthetic_set, make_reporter=lambda: reporter, **again)
    assert any(note.startswith(f"continuing in epoch 1, after step {step} of ") for note in reporter.notes)
    assert same_weights(run, started)
    assert closed == [False, False, True]
    result = call(train, "--shards", synthetic_set, "--run", run, "--resume", "auto", *ARGUMENTS)
    assert result.code == 0
    assert (
        f"nothing to do. To train for longer, start a new run with more epochs, or with --init-from {run}" in result.err
    )
    with pytest.raises(UsageError, match="resume 'yes': choose from"):
        petseg.train(synthetic_set, run=run, resume="yes")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="resume needs run"):
        petseg.train(synthetic_set, resume="auto")


def test_a_start_that_failed_is_started_again_with_other_options(synthetic_set: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        petseg.train(synthetic_set, run=run, options={**TINY, "seed": 5}, make_reporter=Stopping)
    petseg.train(synthetic_set, run=run, options=TINY)
    config = read_config(run)
    assert config["recipe"]["seed"] == 0
    assert config["resumed"] == []
    for foreign in ("thesis.txt", "metrics.jsonl"):
        other = tmp_path / foreign
        other.mkdir()
        shutil.copy(run / "config.json", other)
        (other / foreign).write_text("mine")
        with pytest.raises(UsageError, match=r"not empty|already contains a run"):
            petseg.train(synthetic_set, run=other, options=TINY)


def test_the_best_checkpoint_cannot_be_resumed(started: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(started, run)
    shutil.copy(run / "best.pt", run / "last.pt")
    with pytest.raises(PetsegError, match=f"weights alone.*init_from='{run / 'last.pt'}'"):
        petseg.train(run=run, resume=True)


def changed_state(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any], dict[str, Any]], object]:
    """Change what the optimiser keeps of its last parameter."""
    return lambda document, plain: change(document["optimizer"]["state"][max(document["optimizer"]["state"])])


@pytest.mark.parametrize(
    "change",
    [
        lambda document, plain: plain.update(position={"epoch": "x"}),
        lambda document, plain: plain["position"].update(best_score=1.0),
        changed_state(lambda state: state.update({name: torch.ones(7) for name in state})),
        changed_state(lambda state: state.update(exp_avg=torch.full_like(state["exp_avg"], float("nan")))),
        changed_state(lambda state: state.update(exp_avg="text")),
        changed_state(lambda state: state.update(step=state["step"].to(torch.uint8))),
        changed_state(lambda state: state.pop("exp_avg_sq")),
        changed_state(lambda state: state.clear()),
        lambda document, plain: document["optimizer"].update(state={}),
    ],
    ids=["position", "score", "shape", "NaN", "text", "a step that wraps", "missing", "empty", "no state"],
)
def test_a_checkpoint_whose_parts_do_not_fit(started: Path, tmp_path: Path, change: Any) -> None:
    run = tmp_path / "run"
    shutil.copytree(started, run)
    document = torch.load(run / "last.pt", weights_only=True)
    plain = json.loads(document["plain"])
    plain["position"]["finished"] = False
    change(document, plain)
    torch.save({**document, "plain": json.dumps(plain)}, run / "last.pt")
    with pytest.raises(PetsegError, match=r"last\.pt is damaged: its state does not belong to its network"):
        petseg.train(run=run, resume=True)


def test_damaged_metrics_are_restored(call, started: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(started, run)
    (run / "metrics.jsonl").write_text("{")
    assert call(train, "--resume", "--run", run, "--json").code == 0
    assert (run / "metrics.jsonl").read_bytes() == (started / "metrics.jsonl").read_bytes()


@contextlib.contextmanager
def full(patch: pytest.MonkeyPatch, name: str, *, times: int = 1):
    """A disk that is full when a file of this name is renamed into its place."""
    left, rename = [times], Path.replace

    def replace(self: Path, target: Path) -> Path:
        if Path(target).name == name and left[0]:
            left[0] -= 1
            raise OSError(28, "No space left on device", str(target))
        return rename(self, target)

    with patch.context() as inner:
        inner.setattr(Path, "replace", replace)
        yield


@pytest.mark.parametrize("name", ["config.json", "config.toml", "best.pt", "last.pt"])
def test_the_advice_after_a_full_disk_works(
    call, synthetic_set: Path, started: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Whichever file does not fit, the command that the message names leads to the same weights."""
    run = tmp_path / "a run"
    arguments = ["--shards", synthetic_set, "--run", run, *ARGUMENTS]
    with full(monkeypatch, name):
        result = call(train, *arguments)
    assert result.code == 1
    line = result.err.strip().splitlines()[-1]
    assert "full" in line or "No space" in line
    if "continue with: " in line:
        program, *again = shlex.split(line.split("continue with: ")[1])
        assert program == "petseg-train"
    else:
        assert "run the same command again" in line
        again = arguments
    assert ("the last checkpoint is kept" in line) == (run / "last.pt").exists()
    result = call(train, *again)
    assert result.code == 0, result.err
    assert same_weights(run, started)


def test_the_first_line_comes_before_the_first_epoch_ends(synthetic_set: Path, tmp_path: Path) -> None:
    class Ordered(Reporter):
        def __init__(self) -> None:
            self.heard = list[str]()

        def note(self, text: str) -> None:
            self.heard.append(text)

        def start_epoch(self, **facts: Any) -> None:
            self.heard.append("epoch starts")

    reporter = Ordered()
    petseg.train(synthetic_set, run=tmp_path / "run", options=TINY, make_reporter=lambda: reporter)
    before = reporter.heard[: reporter.heard.index("epoch starts")]
    (line,) = [text for text in before if text.startswith("training unet on ")]
    assert "24 images" in line
    assert f"run in {tmp_path / 'run'}" in line


def test_a_closed_output_ends_no_training(synthetic_set: Path, started: Path, tmp_path: Path, monkeypatch) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", Closed())
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with pytest.raises(SystemExit) as end:
        train.main(args=["--shards", str(synthetic_set), "--run", str(tmp_path / "run"), *ARGUMENTS])
    assert end.value.code == 0
    assert sys.stderr.getvalue().count("stdout: Broken pipe; the training goes on without it") == 1
    assert same_weights(tmp_path / "run", started)


@pytest.fixture
def damaged_set(synthetic_set: Path, tmp_path: Path) -> Path:
    return damaged_copy(synthetic_set, tmp_path / "damaged")


def test_damaged_samples_stop_the_training_or_are_replaced(call, damaged_set: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["--shards", damaged_set, "--run", run, *ARGUMENTS]
    result = call(train, *arguments)
    assert result.code == 1
    advice = result.err.strip().split("then continue with: ")[1]
    assert advice == f"petseg-train --resume --run {run} --on-error replace"
    result = call(train, *shlex.split(advice)[1:])
    assert result.code == 0, result.err
    assert "2 damaged samples replaced so far: " in result.err
    assert [json.loads(line)["replaced"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [2]
    result = call(
        train, *arguments[:2], *ARGUMENTS, "--run", tmp_path / "b", "--on-error", "replace", "--max-damaged", 1
    )
    assert result.code == 1
    assert "--max-damaged" in result.err


def test_the_mean_loss_is_that_of_valid_images(damaged_set: Path) -> None:
    """A damaged image has none, nor does what stands in its place."""
    placement = choose_placement(torch.device("cpu"), "fp32")
    model = build_model(ModelConfig(widths=(8, 16))).eval()
    arguments = {"split": "train", "batch_size": 9, "size": 32, "mask": "index", "device": "cpu"}
    with Loader(damaged_set, on_error="replace", **arguments) as loader:
        result = evaluate(model, loader, placement=placement, loss_sum=lambda logits, batch: batch.valid.sum() * 3.0)
        assert len(loader.damaged) == 2
    assert result.loss == 3.0


def test_a_set_in_an_object_store_is_trained_on(call, synthetic_set: Path, started: Path, tmp_path: Path) -> None:
    with s3_server():
        address = f"s3://{BUCKET}/set"
        copy_set(synthetic_set, address)
        place = ["--shards", address, "--cache", tmp_path / "cache"]
        result = call(train, *place, "--run", tmp_path / "run", *ARGUMENTS)
        assert result.code == 0, result.err
        result = call(score, tmp_path / "run", *place, "--split", "val")
        assert result.code == 0, result.err
    assert same_weights(started, tmp_path / "run")
    assert "secret" not in (tmp_path / "run" / "config.json").read_text()
