"""Shards built by real clusters on this machine: Dask's scheduler with three workers, and Ray; a worker is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from killing_maker import KilledOnce
from shard_sources import options, tree
from waiting import wait_until

from shards.build.build_set import build
from shards.build.engines.cluster_executor import ClusterExecutor
from shards.build.engines.executors import build_in_order
from shards.build.engines.open_executor import open_executor
from shards.build.engines.shard_maker import IntoFolder, OnWorker
from shards.build.outcome.library_versions import library_versions
from shards.build.plan import make_plan
from shards.errors import PetsegError, UsageError
from shards.sources import scan

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def dask_address() -> Iterator[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    program = [sys.executable, HERE / "dask_processes.py"]
    pipe = subprocess.PIPE
    with subprocess.Popen(program, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment) as process:
        assert process.stdout is not None
        yield f"dask:{json.loads(process.stdout.readline())['address']}"
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="module")
def ray_name() -> Iterator[str]:
    ray = pytest.importorskip("ray")
    environment = {"PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)]), "RAY_USAGE_STATS_ENABLED": "0"}
    environment["RAY_worker_niceness"] = "0"  # not 15, with which other tests would keep the workers waiting
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield "ray"
        ray.shutdown()


@pytest.mark.parametrize("engine", ["dask", "ray"])
def test_a_workers_death_changes_nothing(
    engine: str,
    tiny_pets: Path,
    tiny_sets: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """A worker is killed in the middle of a shard; then a whole set, from a relative path."""
    executor = request.getfixturevalue("dask_address" if engine == "dask" else "ray_name")
    tasks = dict(enumerate(make_plan(scan(tiny_pets), options()).tasks))
    expected, marker = {}, tmp_path / "killed"
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    for index, task in tasks.items():
        expected[index] = IntoFolder(str(tmp_path / "here"))(task)
    with open_executor(executor) as connected:
        assert isinstance(connected, ClusterExecutor)
        assert connected.capacity() in ((1, 2, 3) if engine == "dask" else (2,))
        make = KilledOnce(str(tmp_path / "there"), str(marker), victim=1)
        found = dict(build_in_order(tasks, make, workers=None, executor=connected))
    assert marker.exists()
    assert found == expected
    built = {name: data for name, data in tree(tmp_path / "there").items() if not name.startswith(".partial")}
    assert built == tree(tmp_path / "here")
    monkeypatch.chdir(tiny_pets.parent)
    seen: list[int] = []
    build(
        Path(tiny_pets.name),
        tmp_path / "out",
        options(),
        executor=executor,
        progress=lambda done, _: seen.append(done),
    )
    assert tree(tmp_path / "out") == tree(tiny_sets["source"])
    assert seen[0] == 0
    assert seen[-1] == 30
    assert len(seen) == len(tasks) + 1


def test_an_interrupt_takes_back_what_waits(dask_address: str, tiny_pets: Path, tmp_path: Path) -> None:
    from distributed import Client

    def stop(done: int, _: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        build(tiny_pets, tmp_path / "out", options(), executor=dask_address, progress=stop)
    assert "run the same command again to resume" in caught.value.__notes__[0]
    with Client(dask_address.removeprefix("dask:"), set_as_default=False) as client:
        wait_until(lambda: not any(client.processing().values()))
    assert build(tiny_pets, tmp_path / "out", options(), executor=dask_address).resumed >= 1


def test_a_folder_that_workers_do_not_see(dask_address: str, tiny_pets: Path, tmp_path: Path) -> None:
    tasks = dict(enumerate(make_plan(scan(tiny_pets), options()).tasks[:1]))
    with open_executor(dask_address) as connected, pytest.raises(PetsegError, match="does not see") as caught:
        list(build_in_order(tasks, IntoFolder(str(tmp_path / "elsewhere")), workers=None, executor=connected))
    assert "under the same path" in str(caught.value)


class Recording(ClusterExecutor):
    """Two workers that build nothing until the queue is as long as it gets."""

    name = "test"

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[Any], Any, Any]] = []
        self.longest = 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((future, fn, args))
        self.longest = max(self.longest, len(self.waiting))
        if len(self.waiting) == 4:
            first, function, arguments = self.waiting.pop(0)
            first.set_result(function(*arguments))
        return future

    def capacity(self) -> int:
        return 2

    def cause(self, error: Exception) -> Exception:
        return PetsegError("explained") if isinstance(error, ZeroDivisionError) else error


def test_only_so_many_shards_are_submitted(tiny_pets: Path, tmp_path: Path) -> None:
    tasks = dict(enumerate(make_plan(scan(tiny_pets), options()).tasks))
    executor = Recording()
    results = build_in_order(tasks, IntoFolder(str(tmp_path)), workers=None, executor=executor)
    for _ in range(len(tasks) - 3):
        next(results)
    assert executor.longest == 4 < len(tasks)
    results.close()
    assert all(future.cancelled() for future, _, _ in executor.waiting)


def test_what_cannot_be_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("dask", "dask:", "ray:", "spark:x", ""):
        with pytest.raises(UsageError, match="is none of dask:ADDRESS"), open_executor(text):
            pass
    monkeypatch.setattr("shards.build.engines.dask_cluster._PATIENCE", "300ms")
    for address in ("tcp://127.0.0.1:9", "nothing"):
        with (
            pytest.raises(PetsegError, match=f"no Dask scheduler answers at {address}"),
            open_executor(f"dask:{address}"),
        ):
            pass
    for name, engine in (("distributed", "dask"), ("ray", "ray")):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(PetsegError, match=rf"pip install 'petseg\[{engine}\]'"), open_executor(f"{engine}:x"):
            pass


def test_a_worker_with_other_libraries_is_refused(tiny_pets: Path, tmp_path: Path) -> None:
    task = make_plan(scan(tiny_pets), options()).tasks[0]
    make = OnWorker(IntoFolder(str(tmp_path)), {**library_versions(), "numpy": "0.1"})
    with pytest.raises(PetsegError, match=r"numpy .* instead of 0\.1"):
        make(task)
