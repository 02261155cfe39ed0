"""Nothing is lost: whatever breaks a run off, the resumed one ends in the same bits."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from forked_programs import ForkedPopen
from labelled_sets import build_labelled, many_labels
from sample_runs import train_undrawn

import petseg
from petseg.host.stop_signals import InterruptedRunError
from petseg.report.console_reporter import Reporter
from petseg.runs.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from shards.errors import PetsegError, UsageError

# Everything with a state: average, dropout, momentum, growing images, random crops, another augmentation at the end,
# a last batch with padding.
OPTIONS: dict[str, Any] = {
    "size": 64,
    "progressive": True,
    "crop_scale": (0.4, 0.8),
    "plain_share": 0.4,
    "widths": (8, 16),
    "dropout": 0.2,
    "epochs": 3,
    "batch_size": 10,
    "drop_last": False,
    "threads": 1,
    "checkpoint_steps": 1,
}
HELPERS = Path(__file__).parents[1]  # the folder of sample_runs
TRAIN = """
import json, pkgutil, sys
sys.path.insert(0, sys.argv[1])
pkgutil.resolve_name(sys.argv[2])(**json.loads(sys.argv[3]))
"""
TIMES = ("pictures_per_second", "wait_share")


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Equal to the bit, through nested dictionaries and lists."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, Mapping):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for number, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{number}]")
    else:
        assert a == b, where


def assert_same_run(run: Path, reference: Path) -> None:
    for name in ("last.pt", "best.pt"):
        ours, theirs = load_checkpoint(run / name), load_checkpoint(reference / name)
        for part in ("model", "average", "optimizer", "scaler", "config", "labels"):
            assert_same(getattr(ours, part), getattr(theirs, part), f"{name}:{part}")
        assert metrics(ours.history) == metrics(theirs.history)
    lines = [[json.loads(line) for line in (r / "metrics.jsonl").read_text().splitlines()] for r in (run, reference)]
    assert metrics(lines[0]) == metrics(lines[1])
    assert not [entry.name for entry in run.iterdir() if entry.name.startswith(".partial")]


def metrics(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in entry.items() if name not in TIMES} for entry in history]


@pytest.fixture(scope="module")
def reference(synthetic_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never interrupted."""
    run = tmp_path_factory.mktemp("reference") / "run"
    train_undrawn(shards=synthetic_set, run=run, options={**OPTIONS, "checkpoint_steps": 0})
    assert [json.loads(line)["size"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [
        [side, side] for side in (32, 48, 64)
    ]
    return run


class Interrupting(Reporter):
    """Sends this process a signal at the n-th thing that is reported."""

    def __init__(self, after: int, number: int) -> None:
        self.left, self.number = after, number

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)

    def batch(self, **facts: Any) -> None:
        self._count()

    def validated(self, images: int) -> None:
        self._count()


def events() -> int:
    """How many things an uninterrupted run reports."""
    return 3 * (3 + 1)


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(
    ("after", "number"),
    [(1, signal.SIGINT), (3, signal.SIGTERM), (4, signal.SIGINT), (6, signal.SIGUSR1), (8, signal.SIGINT)],
)
def test_signals_checkpoint_and_say_how_to_go_on(
    synthetic_set: Path, reference: Path, tmp_path: Path, after: int, number: int, campaign: Callable[[int, int], int]
) -> None:
    if after in (1, 8) and not campaign(0, 1):
        pytest.skip("with --campaign: a step and a validation like others, where a run is interrupted again and again")
    run = tmp_path / "run"
    with pytest.raises(InterruptedRunError, match=f"--resume --run {run}") as error:
        petseg.train(
            synthetic_set,
            run=run,
            options={**OPTIONS, "checkpoint_steps": 0},
            make_reporter=lambda: Interrupting(after, number),
        )
    assert error.value.exit_code == (130 if number == signal.SIGINT else 75)
    assert signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL)
    petseg.train(run=run, resume=True)
    assert_same_run(run, reference)


@pytest.mark.usefixtures("no_report")
def test_a_run_without_a_checkpoint_starts_again(synthetic_set: Path, reference: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(InterruptedRunError):
        petseg.train(synthetic_set, run=run, options=OPTIONS, make_reporter=lambda: Interrupting(2, signal.SIGINT))
    (run / "last.pt").unlink()
    (run / ".partial-last.pt-abc").write_text("litter")
    petseg.train(run=run, resume=True)
    assert_same_run(run, reference)


@pytest.mark.usefixtures("no_report")
def test_epochs_without_their_last_checkpoint_are_not_trained_over(reference: Path, tmp_path: Path) -> None:
    """Removed, for its size, or damaged: the weights that are left are named, and stay as they are."""
    run = tmp_path / "run"
    shutil.copytree(reference, run)
    best, advice = (run / "best.pt").read_bytes(), f"with init_from='{run}'$"
    shards = json.loads((run / "config.json").read_text())["running"]["shards"]
    (run / "last.pt").write_bytes((run / "last.pt").read_bytes()[:5000])
    for given, resume in ((None, True), (shards, "auto")):
        with pytest.raises(CheckpointError, match=f"last.pt is damaged .*{advice}"):
            petseg.train(given, run=run, resume=resume)
    (run / "last.pt").unlink()
    for given, resume in ((None, True), (shards, True), (shards, "auto")):
        with pytest.raises(CheckpointError, match=f"last.pt, from which it would continue, is gone; .*{advice}"):
            petseg.train(given, run=run, resume=resume)
    assert (run / "best.pt").read_bytes() == best
    (run / "best.pt").unlink()
    with pytest.raises(CheckpointError, match=r"is gone; choose another run$"):
        petseg.train(run=run, resume=True)


@pytest.mark.usefixtures("no_report")
def test_a_kill_between_the_checkpoints_of_the_first_epoch(
    synthetic_set: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """best.pt is there, last.pt and the metrics are not: the same command, given again, trains the run."""
    run = tmp_path / "run"

    def save(place: Path, checkpoint: Any) -> None:
        save_checkpoint(place, checkpoint)
        if place.name == "best.pt":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("petseg.training.loop.save_checkpoint", save)
        with pytest.raises(KeyboardInterrupt):
            petseg.train(synthetic_set, run=run, resume="auto", options={**OPTIONS, "checkpoint_steps": 0})
    assert not (run / "last.pt").exists()
    petseg.train(synthetic_set, run=run, resume="auto", options={**OPTIONS, "checkpoint_steps": 0})
    assert_same_run(run, reference)


@pytest.mark.usefixtures("no_report")
def test_interrupted_again_and_again(synthetic_set: Path, reference: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for attempt in range(40):
        try:
            petseg.train(
                None if attempt else synthetic_set,
                run=run,
                resume=attempt > 0,
                options=None if attempt else OPTIONS,
                make_reporter=lambda: Interrupting(2, signal.SIGTERM),
            )
        except InterruptedRunError:
            continue
        break
    assert attempt >= 4
    assert_same_run(run, reference)
    config = json.loads((run / "config.json").read_text())
    assert len(config["resumed"]) == attempt


@pytest.mark.usefixtures("no_report")
def test_interrupted_where_not_every_epoch_is_validated(synthetic_set: Path, tmp_path: Path) -> None:
    options = {**OPTIONS, "validate_every": 2, "patience": 2}
    whole = petseg.train(synthetic_set, run=tmp_path / "whole", options=options)
    run = tmp_path / "run"
    for attempt in range(40):
        try:
            again = {"resume": True} if attempt else {"shards": synthetic_set, "options": options}
            petseg.train(run=run, make_reporter=lambda: Interrupting(2, signal.SIGTERM), **again)
        except InterruptedRunError:
            continue
        break
    assert attempt >= 4
    assert_same_run(run, whole)


@pytest.mark.usefixtures("no_report")
def test_what_may_change_when_resuming_may(synthetic_set: Path, reference: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(InterruptedRunError):
        petseg.train(synthetic_set, run=run, options=OPTIONS, make_reporter=lambda: Interrupting(2, signal.SIGINT))
    moved = tmp_path / "moved"
    moved.symlink_to(synthetic_set)
    petseg.train(moved, run=run, resume=True, options={"prefetch": 3, "checkpoint_steps": 0})
    assert_same_run(run, reference)


class Listening(Reporter):
    def __init__(self, notes: list[str]) -> None:
        self.notes = notes

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_finished_run_stays_as_it_is(reference: Path) -> None:
    def content() -> dict[str, tuple[int, bytes]]:
        return {entry.name: (entry.stat().st_mtime_ns, entry.read_bytes()) for entry in reference.iterdir()}

    before, notes = content(), list[str]()
    petseg.train(run=reference, resume=True, make_reporter=lambda: Listening(notes))
    assert content() == before
    assert len(notes) == 1
    assert "already finished" in notes[0]


@pytest.mark.usefixtures("blank_figures")
def test_a_run_killed_while_its_report_was_drawn(reference: Path, tmp_path: Path, monkeypatch) -> None:
    """Ctrl-C says what is missing; resuming draws it, and does not count as training further."""

    def interrupted(*given: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    run, notes = tmp_path / "run", list[str]()
    shutil.copytree(reference, run)
    (run / "report.html").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("petseg.training.start.draw_run", interrupted)
        with pytest.raises(KeyboardInterrupt) as error:
            petseg.train(run=run, resume=True)
    assert f"petseg-train --resume --run {run} draws it" in error.value.__notes__[0]
    petseg.train(run=run, resume=True, make_reporter=lambda: Listening(notes))
    assert "only its report remains to be drawn" in notes[0]
    assert (run / "report.html").is_file()
    assert json.loads((run / "config.json").read_text())["resumed"] == []
    assert_same_run(run, reference)


@pytest.mark.usefixtures("no_report")
def test_a_run_is_resumed_from_any_folder(synthetic_set: Path, reference: Path, tmp_path: Path, monkeypatch) -> None:
    """The set may have been named by a relative path."""
    monkeypatch.chdir(synthetic_set.parent)
    with pytest.raises(InterruptedRunError):
        petseg.train(
            synthetic_set.name,
            run=tmp_path / "run",
            options=OPTIONS,
            make_reporter=lambda: Interrupting(2, signal.SIGINT),
        )
    monkeypatch.chdir(tmp_path)
    petseg.train(run="run", resume=True)
    assert_same_run(tmp_path / "run", reference)


def test_unknown_options_are_refused(synthetic_set: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="colour"):
        petseg.train(synthetic_set, run=tmp_path / "run", options={"colour": 1})


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize("labels", ["pets", "21 classes"])
def test_sigkill_at_random_moments(
    labels: str, synthetic_set: Path, reference: Path, tmp_path: Path, campaign: Callable[[int, int], int]
) -> None:
    data, options = synthetic_set, OPTIONS
    if labels != "pets":
        if not campaign(0, 1):
            pytest.skip("with --campaign")
        data = build_labelled(tmp_path, many_labels(21), samples=60)
        options = {**OPTIONS, "size": (64, 96), "fit": "contain"}
        del options["crop_scale"]  # which is for crops, as "fit" is for whole images
        reference = petseg.train(data, run=tmp_path / "reference", options=options)
    generator = random.Random(0)
    function = "petseg.train" if campaign(0, 1) else "sample_runs.train_undrawn"

    def start(run: Path) -> subprocess.Popen[bytes]:
        """Start a fork with everything imported: it trains at once, so that kills fall into the training."""
        resume = (run / "config.json").exists()
        again = {"resume": True} if resume else {"shards": str(data), "options": options}
        given = json.dumps({"run": str(run), **again})
        return ForkedPopen([sys.executable, "-c", TRAIN, str(HELPERS), function, given])

    kills, runs, wanted = 0, 0, campaign(2, 20)
    while kills < wanted:
        run, finished = tmp_path / f"run{runs}", False
        while not finished:  # killed and resumed until it is left alone, at least once
            process = start(run)
            if kills < wanted:
                wait_for_checkpoints(process, run / "last.pt", count=generator.randrange(8))
                time.sleep(generator.uniform(0, 0.2))
            else:
                process.wait(300)
            finished = process.poll() is not None
            if not finished:
                process.kill()
                kills += 1
            assert process.wait() == (0 if finished else -signal.SIGKILL)
        assert_same_run(run, reference)
        runs += 1


def wait_for_checkpoints(process: subprocess.Popen[bytes], file: Path, *, count: int) -> None:
    """Wait until a file was replaced so many times, or the process has ended."""
    stamps = {file.stat().st_mtime_ns} if file.exists() else set[int]()
    count += len(stamps)
    while len(stamps) < count and process.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            stamps.add(file.stat().st_mtime_ns)
        time.sleep(0.005)


def test_a_set_that_was_moved_is_named_again(synthetic_set: Path, tmp_path: Path, no_report: None) -> None:
    class Stopping(Reporter):
        def start_epoch(self, *, epoch: int, done: int, images: int) -> None:
            if epoch == 1:  # the second
                raise KeyboardInterrupt

    shutil.copytree(synthetic_set, tmp_path / "before" / "set")
    options = {"size": 32, "widths": (8, 16), "epochs": 2, "batch_size": 8, "threads": 1}
    places = {"shards": tmp_path / "before" / "set", "run": tmp_path / "before" / "run"}
    with pytest.raises(KeyboardInterrupt):
        petseg.train(**places, options=options, make_reporter=Stopping)
    after = (tmp_path / "before").rename(tmp_path / "after")
    with pytest.raises(PetsegError, match="if it was moved, say where it is now with shards") as error:
        petseg.train(run=after / "run", resume=True)
    assert "petseg-shard build" not in str(error.value)
    petseg.train(after / "set", run=after / "run", resume=True)
    assert len((after / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_second_signal_interrupts_at_once_but_a_repeat_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    from petseg.host import stop_signals as stopping

    now = 100.0
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now)
    with stopping.catch_stop_signals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal == signal.SIGINT
        os.kill(os.getpid(), signal.SIGTERM)  # a shell that signals its whole group, and then its job
        now += 1.0
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    with stopping.catch_stop_signals(ignore_repeats=True) as stop:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
            now += 1.0
        assert stop.signal == signal.SIGINT
