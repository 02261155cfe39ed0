"""Several real processes train as one does."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import petseg
from petseg.cli import evaluate as evaluate_command
from petseg.cli import train
from petseg.host.device import choose_placement
from petseg.host.distributed import World
from petseg.inference.evaluation import evaluate
from petseg.runs.checkpoint import Checkpoint, load_checkpoint

# 24 training images in batches of 10 make three steps an epoch, the last one with padding: 21 steps.
ARGUMENTS = "--size 32 --widths 8,16 --epochs 7 --batch-size 10 --threads 1 --lr 0.001 --device cpu".split()  # noqa: SIM905
ARGUMENTS.append("--no-drop-last")


def words(ranks: int, *command: str | Path) -> list[str]:
    """A command under torchrun, as the documents write it; ``--standalone``, so that tests do not meet on one port."""
    program = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc-per-node", str(ranks)]
    return [*program, "--no-python", "--", *map(str, command)]


def environment() -> dict[str, str]:
    """With the project's commands on the path, as after installing."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def torchrun(ranks: int, *command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        words(ranks, *command), capture_output=True, text=True, timeout=300, check=False, env=environment()
    )
    assert not check or result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def two_ranks(synthetic_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks that nothing interrupted."""
    run = tmp_path_factory.mktemp("two") / "run"
    result = torchrun(2, "petseg-train", "--shards", synthetic_set, "--run", run, *ARGUMENTS)
    assert result.stdout.count("val IoU") == 7  # one of the ranks prints
    assert "Warning" not in result.stderr
    return run


def assert_close(a: Checkpoint, b: Checkpoint) -> None:
    """Equal up to rounding: the same sums, in another order."""
    for part in ("model", "average"):
        for name, value in getattr(a, part).items():
            torch.testing.assert_close(
                getattr(b, part)[name], value, rtol=2e-3, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.slow
def test_two_ranks_equal_one(two_ranks: Path, synthetic_set: Path, tmp_path: Path) -> None:
    one = tmp_path / "one"
    # As a module, the other way to start it.
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", "-m", "--", "petseg"]
    arguments = ["--shards", str(synthetic_set), "--run", str(one), *ARGUMENTS]
    subprocess.run([*start, *arguments], check=True, env=environment(), timeout=300)
    a, b = load_checkpoint(one / "last.pt"), load_checkpoint(two_ranks / "last.pt")
    assert a.position["step"] == b.position["step"] >= 20
    assert_close(a, b)
    for mine, theirs in zip(a.history, b.history, strict=True):
        assert mine["train"]["loss"] == pytest.approx(theirs["train"]["loss"], rel=1e-4)
        assert mine["val"]["loss"] == pytest.approx(theirs["val"]["loss"], rel=1e-4)
        assert mine["val"]["mean_iou"] == pytest.approx(theirs["val"]["mean_iou"], abs=2e-3)
    assert json.loads((two_ranks / "config.json").read_text())["world_size"] == 2


@pytest.mark.slow
def test_steps_on_two_ranks_equal_steps_on_one(tmp_path: Path) -> None:
    """The same losses, gradient norms and weights, also with two micro-batches on each rank."""
    path = Path(__file__).with_name("rank_steps.py")
    spec = importlib.util.spec_from_file_location("rank_steps", path)
    assert spec is not None
    assert spec.loader is not None
    rank_steps = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rank_steps)
    torchrun(2, sys.executable, path, tmp_path / "results.pt")
    results = torch.load(tmp_path / "results.pt")
    for norm in rank_steps.CASES:
        one, two = rank_steps.run_steps(norm, World(), accumulate=1), results[norm]
        assert torch.equal(one["start"], two["start"])
        assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
        for (theirs,), ours in zip(one["norms"], two["norms"], strict=True):
            assert ours[0] == ours[1] == pytest.approx(theirs, rel=1e-4)
        change = (one["end"] - one["start"]).norm()
        assert change > 0.01
        assert (two["end"] - one["end"]).norm() < 1e-3 * change


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "everybody"), [(signal.SIGINT, True), (signal.SIGTERM, False)], ids=["Ctrl-C", "SIGTERM to torchrun"]
)
def test_one_signal_ends_two_ranks_cleanly(
    two_ranks: Path, synthetic_set: Path, tmp_path: Path, number: int, everybody: bool
) -> None:
    """A terminal signals everybody at once, and torchrun its ranks once more; a scheduler signals torchrun alone."""
    run = tmp_path / "a run"
    command = words(2, "petseg-train", "--shards", synthetic_set, "--run", run, *ARGUMENTS)
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (os.killpg if everybody else os.kill)(process.pid, number)
    _, error = process.communicate(timeout=120)
    assert process.returncode != 0
    reported = [line for line in error.splitlines() if line.startswith("Error: stopped in epoch")]
    assert len(reported) == 1, error  # one of the ranks reports it
    assert (
        f"{Path(petseg.__file__).parent}/" not in error
    )  # torchrun prints a traceback of its own; there is none of ours
    kept = load_checkpoint(run / "last.pt")
    assert not kept.position["finished"]
    advice = shlex.split(reported[0].split("continue with: ")[1])
    start = ["torchrun", "--nproc-per-node", "2", "--no-python", "--"]
    assert advice == [*start, "petseg-train", "--resume", "--run", str(run)]
    if not everybody:
        return  # how the run was stopped makes no difference to how it is resumed
    torchrun(2, *advice[5:])
    ours, theirs = load_checkpoint(run / "last.pt"), load_checkpoint(two_ranks / "last.pt")
    assert ours.position["step"] == theirs.position["step"]
    for part in ("model", "average"):
        for name, value in getattr(ours, part).items():
            assert torch.equal(value, getattr(theirs, part)[name]), name


@pytest.mark.slow
def test_a_killed_rank_is_restarted_by_torchrun(two_ranks: Path, synthetic_set: Path, tmp_path: Path) -> None:
    """``--max-restarts`` runs the same command again, which starts at first and continues then: with the same bits."""
    run = tmp_path / "run"
    command = ["petseg-train", "--resume", "auto", "--shards", str(synthetic_set), "--run", str(run), *ARGUMENTS]
    start = words(2, *command, "--checkpoint-steps", "1")
    start.insert(1, "--max-restarts=1")
    process = subprocess.Popen(start, stderr=subprocess.PIPE, text=True, env=environment(), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (run / "last.pt").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = {int(pid): Path(f"/proc/{pid}/environ").read_text().split("\0") for pid in children}
    (second,) = [pid for pid, variables in ranks.items() if "RANK=1" in variables]
    os.kill(second, signal.SIGKILL)
    _, error = process.communicate(timeout=200)
    assert process.returncode == 0, error
    assert "continuing in epoch" in error
    assert len(json.loads((run / "config.json").read_text())["resumed"]) == 1
    ours, theirs = load_checkpoint(run / "last.pt"), load_checkpoint(two_ranks / "last.pt")
    for name, value in ours.model.items():
        assert torch.equal(value, theirs.model[name]), name


@pytest.mark.slow
def test_two_ranks_score_exactly_as_one(call, tiny_run: Path, synthetic_set: Path, tmp_path: Path) -> None:
    arguments = [tiny_run, "--shards", synthetic_set, "--json", "--own-size", "--mirror", "--csv"]
    two = torchrun(2, "petseg-eval", *arguments, tmp_path / "two.csv").stdout
    one = call(evaluate_command, *arguments, tmp_path / "one.csv").out
    assert json.loads(two) == json.loads(one)
    assert json.loads(one)["samples"] > 20
    assert (tmp_path / "two.csv").read_text() == (tmp_path / "one.csv").read_text()


def test_a_batch_that_cannot_be_divided(call, synthetic_set: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = call(train, "--shards", synthetic_set, "--run", tmp_path / "run", "--batch-size", "9")
    assert result.code != 0
    assert "cannot be divided evenly among 2" in result.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_evaluation_counts_every_sample_once_for_any_ranks(synthetic_set: Path, tiny_run: Path, ranks: int) -> None:
    from pipeline import Loader

    predictor = petseg.load(tiny_run, device="cpu")
    placement = choose_placement(torch.device("cpu"), "fp32")
    parts: list[tuple[object, object]] = []

    class Collecting(World):
        def gather(self, value):  # each rank's part is kept, and all are put together at the end
            parts.append(value)
            return parts

    def run(rank: int, size: int, world: World):
        with Loader(
            synthetic_set, split="test", batch_size=7, size=32, mask="index", rank=rank, world_size=size, device="cpu"
        ) as loader:
            return evaluate(predictor.model, loader, placement=placement, world=world)

    whole = run(0, 1, World())
    for rank in range(ranks):
        together = run(rank, ranks, Collecting())
    assert (together.matrix == whole.matrix).all()
    assert (together.counts == whole.counts).all()
    assert whole.matrix.sum() == whole.samples * 32 * 32
