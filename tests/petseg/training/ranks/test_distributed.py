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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forked_programs
import pytest
import torch
from forked_programs import ForkedPopen
from loopback_nodes import ARGUMENTS, COMMAND
from sample_runs import damaged_copy

import petseg
from petseg.cli import evaluate as evaluate_command
from petseg.cli import train
from petseg.host.agreement import JointStart
from petseg.host.device import choose_placement
from petseg.host.distributed import World
from petseg.inference.evaluation import evaluate
from petseg.runs.checkpoint import Checkpoint, load_checkpoint
from petseg.runs.run_folder import read_metrics

RANK_STEPS = Path(__file__).with_name("rank_steps.py")


def words(*command: str | Path) -> list[str]:
    """A command under torchrun, as the documents write it; ``--standalone``, so that tests do not meet on one port."""
    program = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc-per-node", "2"]
    return [*program, "--no-python", "--", *map(str, command)]


def module_words(*arguments: str | Path) -> list[str]:
    """``petseg-train`` as a module, the other way to start it."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return [*start, "-m", "--", "petseg", *map(str, arguments)]


def environment() -> dict[str, str]:
    """With the project's commands on the path, as after installing."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def torchrun(*command: str | Path) -> subprocess.CompletedProcess[str]:
    result = forked_programs.run(words(*command), capture_output=True, text=True, timeout=300, env=environment())
    assert result.returncode == 0, result.stderr
    return result


@dataclass(frozen=True)
class TwoRanks:
    """What two ranks left that nothing interrupted: a run, the results of single steps, the scores of a tiny run."""

    run: Path
    encoder: Path  # a run whose encoder started from a file
    damaged: Path  # a run on the set in a folder beside it, with damaged images, which were replaced
    steps: dict[str, dict[str, Any]]
    scores: str
    csv: str


ENCODER = [
    "--encoder",
    "test_efficientnet",
    "--encoder-freeze",
    "1",
    "--encoder-lr",
    "0.001",
    "--size",
    "32",
    "--epochs",
    "2",
    "--batch-size",
    "10",
]
ENCODER += ["--threads", "1", "--lr", "0.001", "--device", "cpu", "--no-drop-last"]


@pytest.fixture(scope="module")
def encoder_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights in timm's names, of no network that a seed of ours makes."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(77)
    file = tmp_path_factory.mktemp("encoder") / "weights.pth"
    torch.save(timm.create_model("test_efficientnet").state_dict(), file)
    return file


# What the encoder's features up to stride 4 depend on.
HELD = ("encoder.conv_stem", "encoder.bn1", "encoder.blocks.0", "encoder.blocks.1")

DAMAGED = [*ARGUMENTS, "--epochs", "1", "--augment", "none", "--on-error", "replace"]

EVALUATE = ("--json", "--own-size", "--mirror", "--csv")


@pytest.fixture(scope="module")
def two_ranks(
    synthetic_set: Path, tiny_run: Path, encoder_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> TwoRanks:
    """All in one launch, since each process imports torch."""
    folder = tmp_path_factory.mktemp("two")
    run, results, table = folder / "run", folder / "results.pt", folder / "two.csv"
    encoder = ["--run", folder / "encoder", *ENCODER, "--encoder-weights", encoder_file]
    damaged = damaged_copy(synthetic_set, folder / "set")
    commands = {
        "encoder": ["--shards", synthetic_set, *encoder],
        "train": ["--shards", synthetic_set, "--run", run, *ARGUMENTS],
        "replace": ["--shards", damaged, "--run", folder / "damaged", *DAMAGED],
        "evaluate": [tiny_run, "--shards", synthetic_set, *EVALUATE, table],
    }
    result = torchrun(sys.executable, RANK_STEPS, results, json.dumps(commands, default=str))
    assert "Warning" not in result.stderr
    printed, other = (Path(f"{results}.{rank}.txt").read_text() for rank in range(2))
    assert printed.count("val IoU") == 7 + 2 + 1
    assert not other  # one of the ranks prints
    scores = printed[printed.index("{") :]
    return TwoRanks(run, folder / "encoder", folder / "damaged", torch.load(results), scores, table.read_text())


def assert_close(a: Checkpoint, b: Checkpoint) -> None:
    """Equal up to rounding: the same sums, in another order."""
    for part in ("model", "average"):
        for name, value in getattr(a, part).items():
            torch.testing.assert_close(
                getattr(b, part)[name], value, rtol=2e-3, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.slow
def test_two_ranks_equal_one(two_ranks: TwoRanks, one_process: Path) -> None:
    a, b = load_checkpoint(one_process / "last.pt"), load_checkpoint(two_ranks.run / "last.pt")
    assert a.position["step"] == b.position["step"] >= 20
    assert_close(a, b)
    for mine, theirs in zip(a.history, b.history, strict=True):
        assert mine["train"]["loss"] == pytest.approx(theirs["train"]["loss"], rel=1e-4)
        assert mine["val"]["loss"] == pytest.approx(theirs["val"]["loss"], rel=1e-4)
        assert mine["val"]["mean_iou"] == pytest.approx(theirs["val"]["mean_iou"], abs=2e-3)
    assert json.loads((two_ranks.run / "config.json").read_text())["world_size"] == 2


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_what_is_replaced_on_one_rank_counts_on_none(call, two_ranks: TwoRanks, tmp_path: Path) -> None:
    """Each rank knows of its own damaged images only, but a batch's loss is the mean of all its valid ones."""
    arguments = ["--shards", two_ranks.damaged.parent / "set", "--run", tmp_path / "one", *DAMAGED]
    assert call(train, *arguments).code == 0
    mine, theirs = (read_metrics(run)[0] for run in (tmp_path / "one", two_ranks.damaged))
    assert mine["replaced"] == theirs["replaced"] == 2
    # Almost: what stands in the place of a damaged image is in the statistics of batch normalisation.
    assert theirs["train"]["loss"] == pytest.approx(mine["train"]["loss"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_an_encoder_from_a_file_starts_on_two_ranks_as_on_one(
    call, two_ranks: TwoRanks, encoder_file: Path, synthetic_set: Path, tmp_path: Path
) -> None:
    """By its default recipe; rank 0 alone reads it (rank_steps sees to that), and in the first epoch it is frozen.

    In float64, two ranks and one differ by 1e-13 here. In float32 AdamW makes more of rounding: some biases have no
    gradient but rounding, as those before a batch normalisation, and its first steps have the learning rate's size for
    any gradient. So all weights together are compared; of single gradients see the test of single steps.
    """
    arguments = ["--shards", synthetic_set, "--run", tmp_path / "one", *ENCODER]
    assert call(train, *arguments, "--encoder-weights", encoder_file).code == 0
    a, b = load_checkpoint(tmp_path / "one" / "last.pt"), load_checkpoint(two_ranks.encoder / "last.pt")
    assert a.recipe.encoder_sha256 == b.recipe.encoder_sha256
    for mine, theirs in zip(a.history, b.history, strict=True):
        assert mine["train"]["loss"] == pytest.approx(theirs["train"]["loss"], rel=1e-3)
    file = {f"encoder.{name}": value for name, value in torch.load(encoder_file).items()}
    started = [name for name in a.model if name in file and file[name].is_floating_point()]
    held = [name for name in started if name.startswith(HELD)]
    for part in (a.model, b.model):
        assert all(torch.equal(part[name], file[name]) for name in held)
    change, difference = (
        torch.cat([(a.model[name] - other[name]).flatten() for name in started]).norm() for other in (file, b.model)
    )
    assert 0 < difference < 0.05 * change  # trained from the file's weights, and alike


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_steps_on_two_ranks_equal_steps_on_one(two_ranks: TwoRanks) -> None:
    """The same losses, gradient norms, weights and running statistics, also with two micro-batches on each rank."""
    spec = importlib.util.spec_from_file_location("rank_steps", RANK_STEPS)
    assert spec is not None
    assert spec.loader is not None
    rank_steps = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rank_steps)
    for norm in rank_steps.CASES:
        one, two = rank_steps.run_steps(norm, World(), accumulate=1), two_ranks.steps[norm]
        start, ours, theirs = one["start"], two["end"], one["end"]
        assert all(torch.equal(value, two["start"][name]) for name, value in start.items())
        assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
        for (alone,), ranks in zip(one["norms"], two["norms"], strict=True):
            assert ranks[0] == ranks[1] == pytest.approx(alone, rel=1e-4)
        for name, value in theirs.items():
            change = (value - start[name]).float().norm()
            # Some biases have no gradient but rounding, as those before a batch normalisation.
            assert (ours[name] - value).float().norm() <= 2e-3 * change + 1e-6, (norm, name)
            if norm == "held" and name.startswith(HELD):
                assert not change, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "target"),
    [(signal.SIGINT, "everybody"), (signal.SIGTERM, "torchrun"), (signal.SIGUSR1, "rank 1")],
    ids=["Ctrl-C", "SIGTERM to torchrun", "SIGUSR1 to a rank"],
)
def test_one_signal_ends_two_ranks_cleanly(
    synthetic_set: Path, tmp_path: Path, number: int, target: str, campaign: Callable[[int, int], int]
) -> None:
    """A terminal signals everybody at once, and torchrun its ranks once more; a scheduler signals torchrun alone, or
    some of the ranks; all of them stop after the same step."""
    run = tmp_path / "a run"
    # Of so many epochs that the signal comes before the last, however slow the machine is.
    arguments = ["--shards", synthetic_set, "--run", run, *ARGUMENTS, "--epochs", "1000"]
    command = module_words(*arguments) if target == "torchrun" else words("petseg-train", *arguments)
    start = subprocess.Popen if campaign(0, 1) else ForkedPopen
    process = start(
        command, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True, stdout=subprocess.DEVNULL
    )
    wait_for(run / "metrics.jsonl", process)
    if target == "everybody":
        os.killpg(process.pid, number)
    else:
        os.kill(process.pid if target == "torchrun" else rank_of(process, 1), number)
    _, error = process.communicate(timeout=120)
    assert process.returncode != 0
    if target == "rank 1":  # torchrun reports what its ranks returned, where it was not signalled itself
        assert error.count("exitcode  : 75") == 2, error
    reported = [line for line in error.splitlines() if line.startswith("Error: stopped in epoch")]
    assert len(reported) == 1, error  # one of the ranks reports it
    assert (
        f"{Path(petseg.__file__).parent}/" not in error
    )  # torchrun prints a traceback of its own; there is none of ours
    kept = load_checkpoint(run / "last.pt")
    assert not kept.position["finished"]
    advice = shlex.split(reported[0].split("continue with: ")[1])
    torchrun = ["torchrun", "--nproc-per-node", "2", "--no-python", "--"]
    assert advice == [*torchrun, "petseg-train", "--resume", "--run", str(run)]


def wait_for(file: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not file.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def rank_of(process: subprocess.Popen[str], rank: int) -> int:
    """The process of a rank that torchrun has started: a fork is named so, a program of its own has the variable."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (found,) = [
        int(pid)
        for pid in children
        if Path(f"/proc/{pid}/comm").read_text() == f"rank {rank}\n"
        or f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    ]
    return found


@pytest.mark.slow
def test_a_killed_rank_is_restarted_by_torchrun(two_ranks: TwoRanks, synthetic_set: Path, tmp_path: Path) -> None:
    """``--max-restarts`` runs the same command again, which starts at first and continues then: with the same bits."""
    run = tmp_path / "run"
    program = [sys.executable, str(COMMAND), "--resume", "auto", "--shards", str(synthetic_set), "--run", str(run)]
    start = words(*program, *ARGUMENTS, "--checkpoint-steps", "1")
    start.insert(1, "--max-restarts=1")
    slow = environment() | {"PETSEG_TEST_PAUSE": "0.03"}  # else it may have ended before it is seen to run
    process = ForkedPopen(start, stderr=subprocess.PIPE, text=True, env=slow, stdout=subprocess.DEVNULL)
    wait_for(run / "last.pt", process)
    os.kill(rank_of(process, 1), signal.SIGKILL)
    _, error = process.communicate(timeout=200)
    assert process.returncode == 0, error
    assert "continuing in epoch" in error
    assert len(json.loads((run / "config.json").read_text())["resumed"]) == 1
    ours, theirs = load_checkpoint(run / "last.pt"), load_checkpoint(two_ranks.run / "last.pt")
    for name, value in ours.model.items():
        assert torch.equal(value, theirs.model[name]), name


@pytest.mark.slow
def test_two_ranks_score_exactly_as_one(
    call, two_ranks: TwoRanks, tiny_run: Path, synthetic_set: Path, tmp_path: Path
) -> None:
    one = call(evaluate_command, tiny_run, "--shards", synthetic_set, *EVALUATE, tmp_path / "one.csv").out
    assert json.loads(two_ranks.scores) == json.loads(one)
    assert json.loads(one)["samples"] > 20
    assert two_ranks.csv == (tmp_path / "one.csv").read_text()


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


def test_the_others_hear_of_a_configuration_that_one_rank_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount that one machine lacks: without torchrun they waited for ten minutes."""
    told: list[str] = []
    monkeypatch.setattr(JointStart, "fail", lambda _, error: told.append(str(error)))
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(petseg.PetsegError, match=r"missing\.toml") as raised:
        petseg.train(config=tmp_path / "missing.toml")
    assert told == [str(raised.value)]
