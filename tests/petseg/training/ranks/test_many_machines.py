"""Several machines train as one process does, whichever of them are there."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from loopback_nodes import LoopbackNodes

import petseg
from petseg.runs.checkpoint import load_checkpoint

# 24 training images in batches of 10 are three steps an epoch, the last one padded.
OPTIONS = {"size": 32, "widths": (8, 16), "epochs": 7, "batch_size": 10, "threads": 1, "lr": 1e-3, "drop_last": False}
ARGUMENTS = "--size 32 --widths 8,16 --epochs 7 --batch-size 10 --threads 1 --lr 1e-3 --no-drop-last --device cpu"
A, B = "127.0.0.1", "127.0.0.2"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def one_process(synthetic_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that all others must equal."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("petseg.training.start.draw_run", lambda run, **_: (run / "report.html").write_text(""))
        run = tmp_path_factory.mktemp("one") / "run"
        return petseg.train(synthetic_set, run=run, options={**OPTIONS, "device": "cpu"})


@pytest.fixture
def launch(synthetic_set: Path, tmp_path: Path) -> Iterator[Callable[..., LoopbackNodes]]:
    started = list[LoopbackNodes]()

    def start(*arguments: str, nodes: str = "2", options: tuple[str, ...] = (), run: str = "") -> LoopbackNodes:
        command = [
            "--shards",
            str(synthetic_set),
            "--run",
            run or str(tmp_path / "run"),
            *ARGUMENTS.split(),
            *arguments,
        ]
        started.append(LoopbackNodes(tmp_path, nodes=nodes, arguments=command, options=options))
        return started[-1]

    yield start
    for nodes in started:
        nodes.close()


def step_of(run: Path) -> int:
    return load_checkpoint(run / "last.pt").position["step"] if (run / "last.pt").exists() else 0


def assert_same(run: Path, reference: Path) -> None:
    """Equal up to rounding: the same sums, in another order."""
    ours, theirs = load_checkpoint(run / "last.pt"), load_checkpoint(reference / "last.pt")
    assert ours.position["step"] == theirs.position["step"] == 21
    for part in ("model", "average"):
        for name, value in getattr(theirs, part).items():
            torch.testing.assert_close(
                getattr(ours, part)[name], value, rtol=2e-3, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}"
            )
    for mine, other in zip(ours.history, theirs.history, strict=True):
        assert mine["train"]["loss"] == pytest.approx(other["train"]["loss"], rel=1e-4)
        assert mine["val"]["loss"] == pytest.approx(other["val"]["loss"], rel=1e-4)


@pytest.mark.faults
def test_a_machine_dies_and_the_other_goes_on(
    launch, one_process: Path, tmp_path: Path, campaign: Callable[[int, int], int]
) -> None:
    """Two machines, then one of them, whichever it is: with the weights of one process that nothing interrupted."""
    draw = random.Random(0)
    for number in range(campaign(1, 12)):
        run = tmp_path / f"run-{number}"
        nodes = launch(
            *("--resume", "auto", "--checkpoint-steps", "1"),
            nodes="1:2",
            options=("--max-restarts", "3"),
            run=str(run),
        )
        pair = [nodes.start(A), nodes.start(B)]
        least = draw.randint(1, 15)
        nodes.wait_for(lambda run=run, least=least: step_of(run) >= least)
        victim = pair.pop(draw.randrange(2))
        assert '"world_size": 2' in (run / "config.json").read_text()
        nodes.kill(victim)
        assert nodes.wait(pair[0]) == 0, nodes.output(pair[0])
        config = json.loads((run / "config.json").read_text())
        assert (config["world_size"], len(config["resumed"])) == (1, 1)
        assert_same(run, one_process)


@pytest.mark.faults
@pytest.mark.parametrize("victim", [0, 1])
def test_a_machine_that_comes_back_joins_again(
    launch, one_process: Path, tmp_path: Path, campaign: Callable[[int, int], int], monkeypatch, victim: int
) -> None:
    """torchrun then starts all ranks anew, without counting it as a restart, and may hand them a store that was used."""
    if campaign(0, 1) == 0:
        pytest.skip("takes a minute: only with --campaign")
    monkeypatch.setenv("PETSEG_TEST_PAUSE", "1.5")
    run, resumed = tmp_path / "run", lambda: json.loads((run / "config.json").read_text())["resumed"]
    nodes = launch(
        *("--resume", "auto", "--checkpoint-steps", "1"), nodes="1:2", options=("--max-restarts", "3"), run=str(run)
    )
    pair = {A: nodes.start(A), B: nodes.start(B)}
    nodes.wait_for(lambda: step_of(run) >= 2)
    address = (A, B)[victim]
    nodes.kill(pair[address])
    nodes.wait_for(lambda: len(resumed()) == 1)
    pair[address] = nodes.start(address)
    nodes.wait_for(lambda: len(resumed()) == 2)
    assert '"world_size": 2' in (run / "config.json").read_text()
    for process in pair.values():
        assert nodes.wait(process) == 0, nodes.output(process)
    assert_same(run, one_process)
