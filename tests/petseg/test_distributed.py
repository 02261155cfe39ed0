"""Several real processes train as one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import petseg
from petseg.checkpoint import load_checkpoint
from petseg.device import choose_placement
from petseg.distributed import World
from petseg.evaluation import evaluate

# 24 training pictures in batches of 10 make three steps an epoch, the last one with padding: 21 steps.
ARGUMENTS = "--size 32 --widths 8,16 --epochs 7 --batch-size 10 --threads 1 --lr 0.001 --device cpu".split()  # noqa: SIM905


def torchrun(ranks: int, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={ranks}",
            "-m",
            "--",
            "petseg",
        ]
        + [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=environment,
    )
    assert not check or result.returncode == 0, result.stderr
    return result


@pytest.mark.slow
def test_two_ranks_equal_one(made_up_set: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    torchrun(2, "--shards", made_up_set, "--run", two, *ARGUMENTS)
    result = torchrun(1, "--shards", made_up_set, "--run", one, *ARGUMENTS)
    assert "val IoU" in result.stdout
    a, b = load_checkpoint(one / "last.pt"), load_checkpoint(two / "last.pt")
    assert a.position["step"] == b.position["step"] >= 20
    for part in ("model", "average"):
        for name, value in getattr(a, part).items():
            torch.testing.assert_close(
                getattr(b, part)[name], value, rtol=2e-3, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}"
            )
    for mine, theirs in zip(a.history, b.history, strict=True):
        assert mine["train"]["loss"] == pytest.approx(theirs["train"]["loss"], rel=1e-4)
        assert mine["val"]["loss"] == pytest.approx(theirs["val"]["loss"], rel=1e-4)
        assert mine["val"]["mean_iou"] == pytest.approx(theirs["val"]["mean_iou"], abs=2e-3)
    assert json.loads((two / "config.json").read_text())["world_size"] == 2


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared(made_up_set: Path, tmp_path: Path) -> None:
    result = torchrun(2, "--shards", made_up_set, "--run", tmp_path / "run", "--batch-size", "9", check=False)
    assert result.returncode != 0
    assert "cannot be shared evenly by 2" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_evaluation_counts_every_sample_once_for_any_ranks(made_up_set: Path, tiny_run: Path, ranks: int) -> None:
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
            made_up_set, split="test", batch_size=7, size=32, mask="index", rank=rank, world_size=size, device="cpu"
        ) as loader:
            return evaluate(predictor.model, loader, placement=placement, world=world)

    whole = run(0, 1, World())
    for rank in range(ranks):
        together = run(rank, ranks, Collecting())
    assert (together.matrices == whole.matrices).all()
    assert whole.matrix.sum() == whole.samples * 32 * 32
