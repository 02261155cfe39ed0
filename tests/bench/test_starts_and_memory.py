"""What a process pays for the loader: memory that stays flat epoch after epoch, and the time to the first batch."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import forked_programs
import pytest

from bench.core.workspace import open_workspace
from bench.settings import LoaderSettings

STORAGES = ("source", "jpeg", "raw")
SLACK = 4 << 20  # bytes beyond the 2 %: a few pages more or less of what libraries allocate

EPOCHS = """
import os, sys
from bench.core.machine import memory_bytes
from pipeline import Loader

epochs, sets = int(sys.argv[1]), sys.argv[2:]
for shards in sets:
    with Loader(shards, split="train", batch_size=8, size=64, shuffle=True, augment="train", device="cpu") as loader:
        for _ in range(epochs):
            for batch in loader:
                batch.image[-1, -1, -1, -1].item()
            print(memory_bytes(os.getpid()), flush=True)
"""
TIME = "\nimport time; print(time.monotonic(), flush=True)"  # the clock is the same in all processes
FIRST_BATCH = """
import sys
from pipeline import Loader
loader = Loader(sys.argv[1], split="train", batch_size=32, size=128, device="cpu", augment="train")
next(iter(loader)).image[-1, -1, -1, -1].item()
"""


def run(program: str, *arguments: object, start: Callable[..., Any] = subprocess.run) -> list[str]:
    """Run a program in a fresh Python; return the lines that it prints."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    found: str = start(command, capture_output=True, text=True, check=True, timeout=600).stdout
    return found.split()


@pytest.fixture(scope="module")
def sets(synthetic_set: Path) -> Iterator[dict[str, Path]]:
    """The training split in each storage."""
    with open_workspace(LoaderSettings(shards=synthetic_set, storages=STORAGES, size=(64, 64))) as made:
        yield {storage: Path(made.jobs[storage].shards) for storage in STORAGES}


@pytest.mark.slow
def test_memory_is_flat_over_many_epochs(sets: dict[str, Path], campaign: Callable[[int, int], int]) -> None:
    """The last tenth of the epochs takes no more than the second: what the first ones allocate is no leak."""
    epochs = campaign(20, 100)
    memory = [int(line) for line in run(EPOCHS, epochs, *sets.values(), start=forked_programs.run)]
    assert len(memory) == epochs * len(sets)
    assert min(memory) > 50 << 20
    tenth = epochs // 10
    for number, storage in enumerate(sets):
        taken = memory[number * epochs : (number + 1) * epochs]
        early, late = median(taken[tenth : 2 * tenth]), median(taken[-tenth:])
        assert late <= 1.02 * early + SLACK, f"{storage}: {early:,.0f} bytes grew to {late:,.0f}"


@pytest.mark.slow
@pytest.mark.parametrize("storage", STORAGES)
def test_a_first_batch_comes_soon_after_torch(
    sets: dict[str, Path], storage: str, campaign: Callable[[int, int], int]
) -> None:
    """From the start of a fresh process, at most 1.5 times what ``import torch`` alone takes."""
    pairs = campaign(0, 3)
    if not pairs:
        pytest.skip("times on a busy machine decide nothing: --campaign")
    seconds: dict[str, list[float]] = {"import torch": [], FIRST_BATCH: []}
    for _ in range(pairs):
        for program, found in seconds.items():
            began = time.monotonic()
            found.append(float(run(program + TIME, sets[storage])[-1]) - began)
    torch, first = map(median, seconds.values())
    assert first <= 1.5 * torch, f"{first:.2f} s, import torch {torch:.2f} s"
