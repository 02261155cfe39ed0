"""What is measured of our loader's process, start and memory: on processes that misbehave, and in a small run."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import soak
from bench.check import CheckError
from bench.driver import environment_for
from bench.job import Job
from bench.loader_settings import LoaderSettings
from bench.results import Left
from bench.soak import run_soak
from bench.starts import run_starts, time_start
from bench.train_job import TrainJob
from bench.workspace import Workspace, open_workspace

SIZE, BATCH = 16, 8


def settings(**changes: Any) -> LoaderSettings:
    values = {"shards": Path("unused"), "size": SIZE, "batch_size": BATCH, "storages": ("raw",), "starts": 0, "soak": 0}
    return LoaderSettings(**{**values, **changes})


def quiet(_: str) -> None:
    """A note that nobody reads."""


@pytest.fixture(scope="module")
def workspace(made_up_set: Path) -> Iterator[Workspace]:
    with open_workspace(made_up_set, split="val", storages=("raw",), size=SIZE, source=None, work=None) as made:
        yield made


def broken(workspace: Workspace) -> Workspace:
    """The same, with a shard set that is not there."""
    return replace(workspace, stored={"raw": replace(workspace.stored["raw"], shards=Path("/nowhere"))})


READY = "print('ready', flush=True)"


def test_a_start_lasts_until_the_process_is_ready() -> None:
    plain, slow = (time_start([f"import time; time.sleep({wait}); {READY}; time.sleep(0.5)"]) for wait in (0, 0.4))
    assert 0 < plain < slow
    assert 0.4 <= slow < plain + 0.8
    began = time.perf_counter()
    assert time_start([f"{READY}; import time; time.sleep(0.6)"]) < time.perf_counter() - began - 0.5


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("raise SystemExit(3)", "exit 3"),
        ("raise ValueError('no luck')", "ValueError: no luck"),
        ("print('x')", "exit 0"),
    ],
)
def test_a_process_that_never_is_ready_says_why(program: str, told: str) -> None:
    with pytest.raises(CheckError, match=f"before it was ready: {told}"):
        time_start([program])


def test_nothing_is_started_where_nothing_is_asked_for(workspace: Workspace) -> None:
    left: list[Left] = []
    assert run_starts(settings(), workspace, left=left, note=quiet) == []
    assert run_soak(settings(), workspace, left=left, note=quiet) == []
    assert left == []


@pytest.mark.slow
def test_starts_are_timed_in_turns(workspace: Workspace) -> None:
    left: list[Left] = []
    notes: list[str] = []
    found = run_starts(settings(split="val", starts=2), workspace, left=left, note=notes.append)
    names = ["import torch", "import torchvision", "first batch, raw"]
    assert [line.name for line in found] == names
    assert [line.storage for line in found] == ["", "", "raw"]
    assert notes == [f"start {number} of 2: {name}" for number in (1, 2) for name in names]
    torch, torchvision, first = (min(line.seconds) for line in found)
    assert all(len(line.seconds) == 2 for line in found)
    assert 0.2 < torch < torchvision
    assert first > 0.2
    assert left == []


@pytest.mark.slow
def test_a_start_that_fails_is_told_and_the_others_go_on(workspace: Workspace) -> None:
    left: list[Left] = []
    found = run_starts(settings(split="val", starts=2), broken(workspace), left=left, note=quiet)
    assert [(line.name, len(line.seconds)) for line in found] == [("import torch", 2), ("import torchvision", 2)]
    assert [one.name for one in left] == ["start: first batch, raw"]
    assert "/nowhere" in left[0].reason


@pytest.mark.slow
def test_memory_is_looked_at_after_every_epoch(workspace: Workspace) -> None:
    left: list[Left] = []
    (line,) = run_soak(settings(split="val", soak=4), workspace, left=left, note=quiet)
    assert line.name == "raw, torch engine, augmented"
    assert line.epochs == len(line.memory_bytes) == 4
    assert line.samples == workspace.data.samples
    assert line.batch_bytes == 6 * SIZE * SIZE * BATCH
    assert line.prefetch == 2
    assert min(line.memory_bytes) > 50 << 20
    assert max(line.memory_bytes) < 4 << 30
    assert left == []


@pytest.mark.slow
def test_a_soak_ends_when_its_time_is_up(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "MAX_SECONDS", 0.0)
    (line,) = run_soak(settings(split="val", soak=50, augment="none"), workspace, left=[], note=quiet)
    assert (line.epochs, line.name) == (1, "raw, torch engine")


@pytest.mark.slow
def test_a_soak_that_fails_is_told(workspace: Workspace) -> None:
    left: list[Left] = []
    assert run_soak(settings(split="val", soak=2), broken(workspace), left=left, note=quiet) == []
    assert [one.name for one in left] == ["memory, raw, torch engine, augmented"]
    assert "/nowhere" in left[0].reason


LEAVING = """
import atexit, time
from bench.server import leave

class Slow:
    def __del__(self):
        print("taken apart", flush=True)
        time.sleep(60)

kept = Slow()
atexit.register(lambda: print("cleaned up", flush=True))
leave()
"""


def test_a_peers_process_cleans_up_but_is_not_taken_apart() -> None:
    found = subprocess.run([sys.executable, "-c", LEAVING], capture_output=True, text=True, timeout=30, check=True)
    assert found.stdout == "cleaned up\n"


@pytest.mark.parametrize(
    ("given", "kind", "spins"),
    [
        ({}, TrainJob, "1000"),  # as petseg-train trains
        ({"GOMP_SPINCOUNT": "7"}, TrainJob, "7"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, TrainJob, None),
        ({}, Job, None),
    ],
)
def test_training_is_measured_with_the_trainers_threads(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], kind: type[Job | TrainJob], spins: str | None
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert environment_for(kind).get("GOMP_SPINCOUNT") == spins
