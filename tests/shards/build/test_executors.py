"""Where shards are built: worker processes, a user's executor, Ctrl-C while they start; and when files are flushed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any, NoReturn

import pytest
from shard_sources import options, tree

from petseg import build_shards
from shards.build.build_set import BuildResult, build
from shards.build.plan import ShardTask
from shards.build.write_shard import ShardRecord, build_shard
from shards.errors import UsageError


def made(folder: Path, out: Path, **changes: object) -> BuildResult:
    return build(folder, out, options(**changes), workers=1)  # type: ignore[arg-type]


def test_a_users_executor_can_replace_the_processes(
    tiny_pets: Path, tiny_sets: dict[str, Path], tmp_path: Path
) -> None:
    with ThreadPoolExecutor(3) as executor:
        build(tiny_pets, tmp_path / "out", options(), executor=executor)
    assert tree(tmp_path / "out") == tree(tiny_sets["source"])


def test_a_users_processes_may_work_elsewhere(
    tiny_pets: Path, tiny_sets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths mean those of the process that asks for the build."""
    monkeypatch.chdir(tiny_pets.parent)
    out = Path(os.path.relpath(tmp_path / "out"))
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(2, context, initializer=os.chdir, initargs=("/",)) as executor:
        build(Path(tiny_pets.name), out, options(), executor=executor)
    assert tree(tmp_path / "out") == tree(tiny_sets["source"])


@pytest.mark.parametrize(
    ("workers", "executor", "message"),
    [
        (0, None, "workers=0: give a whole number from 1"),
        ("2", None, "workers='2': give"),
        (1.5, None, "workers=1.5: give"),
        (True, None, "workers=True: give"),
        (2, "ray", "workers is for processes of this machine, which executor replaces"),
    ],
)
def test_wrong_numbers_of_workers(
    tiny_pets: Path, tmp_path: Path, workers: Any, executor: str | None, message: str
) -> None:
    calls = [{"task": None}, {"task": 0, "tasks": 2}]
    for more in calls:
        with pytest.raises(UsageError, match=message):
            build_shards(tiny_pets, tmp_path / "out", workers=workers, executor=executor, **more)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_fraction": "a"}, "val_fraction='a': give a number"),
        ({"seed": None}, "seed=None: give a whole number"),
        ({"mask_suffix": 3}, "mask_suffix=3: give text"),
        ({"image_suffix": [".jpg"]}, "image_suffix=.* give text"),
    ],
)
def test_wrong_options_from_python(tiny_pets: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_shards(tiny_pets, tmp_path / "out", workers=1, **options)
    for paths in ((tiny_pets, ""), ("", tmp_path / "out")):
        with pytest.raises(UsageError, match="the path is empty"):
            build_shards(*paths)
    assert not any(tmp_path.iterdir())


class Watched(ThreadPoolExecutor):
    """A user's executor: is Ctrl-C held while work is submitted to it? The third shard is refused."""

    def __init__(self) -> None:
        super().__init__(1)
        self.held: list[bool] = []
        self.futures: list[Future[object]] = []
        self.go_on = Event()
        self.submit_directly(self.go_on.wait)

    def submit_directly(self, *work: object) -> Future[object]:
        return super().submit(*work)  # type: ignore[arg-type]

    def submit(self, *work: object) -> Future[object]:  # type: ignore[override]
        self.held.append(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        if len(self.held) == 3:
            raise KeyboardInterrupt
        self.futures.append(self.submit_directly(*work))
        return self.futures[-1]


def test_ctrl_c_reaches_a_build_that_submits_to_a_users_executor(tiny_pets: Path, tmp_path: Path) -> None:
    executor = Watched()
    with pytest.raises(KeyboardInterrupt):
        build(tiny_pets, tmp_path / "out", options(), executor=executor)
    assert executor.held == [False] * 3
    assert [future.cancelled() for future in executor.futures] == [True, True]  # nothing is left for it to do
    executor.go_on.set()
    executor.shutdown()


def test_no_process_is_started_where_threads_are_lacking(
    tiny_pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool whose own thread does not start never answers."""
    start, allowed = threading.Thread.start, iter(range(3))

    def limited(thread: threading.Thread) -> None:
        if threading.current_thread() is threading.main_thread() and next(allowed, None) is None:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    monkeypatch.setattr(ProcessPoolExecutor, "submit", lambda *_: pytest.fail("a process is started"))
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="can't start new thread"):
        build(tiny_pets, tmp_path / "set", options(), workers=2)
    assert threading.active_count() == before
    assert not (tmp_path / "set").exists()


def test_ctrl_c_waits_while_our_own_processes_are_started(
    tiny_pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []

    def submit(executor: ProcessPoolExecutor, *work: object) -> Future[object]:
        held.append(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        return plain(executor, *work)  # type: ignore[arg-type]

    plain = ProcessPoolExecutor.submit
    monkeypatch.setattr(ProcessPoolExecutor, "submit", submit)
    build(tiny_pets, tmp_path / "out", options(), workers=2)
    assert held
    assert all(held)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


THREADED = """
import sys, threading
from pathlib import Path
from shards.build.build_set import build
sys.path.insert(0, sys.argv[3])
from shard_sources import options
if __name__ == "__main__":
    done = threading.Event()
    threading.Thread(target=done.wait, daemon=True).start()
    build(Path(sys.argv[1]), Path(sys.argv[2]), options(), workers=2)
    done.set()
"""


def test_a_process_with_threads_is_not_forked(tiny_pets: Path, tiny_sets: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(THREADED)
    arguments = [tmp_path / "script.py", tiny_pets, tmp_path / "out", Path(__file__).parents[1]]
    subprocess.run([sys.executable, *map(str, arguments)], check=True, timeout=120)
    assert tree(tmp_path / "out") == tree(tiny_sets["source"])


def test_workers_do_not_import_torch() -> None:
    code = "import sys, shards.build; print([m for m in sys.modules if m in ('torch', 'nvidia')])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.parametrize("interrupted", [False, True])
def test_every_file_is_flushed_before_the_set_appears(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted: bool
) -> None:
    """Of shards that an earlier build had finished, too: it may not have come to flush them."""
    out = tmp_path / "out"
    if interrupted:
        with monkeypatch.context() as patch:
            patch.setattr("shards.build.build_set.assemble", fail)
            with pytest.raises(OSError, match="no more"):
                made(pets, out)
        assert len(list((tmp_path / "out.building" / ".work").glob("*.done"))) > 5
    flushed: set[int] = set()
    real_fsync, real_rename = os.fsync, Path.rename

    def fsync(handle: int) -> None:
        flushed.add(os.fstat(handle).st_ino)
        real_fsync(handle)

    def rename(self: Path, target: Path) -> Path:
        if target == out:
            files = [path for path in self.iterdir() if path.is_file()]
            assert len(files) > 10
            assert {path.stat().st_ino for path in (*files, self, self / ".work" / "plan")} <= flushed
            flushed.add(-1)
        return real_rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    built = made(pets, out)
    assert -1 in flushed
    assert bool(built.resumed) == interrupted


@pytest.mark.parametrize("interrupted", [False, True])
def test_no_thread_flushes_while_processes_are_started(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted: bool
) -> None:
    """They could not be forked then, and starting them afresh takes longer than packing a small set."""
    out, left = tmp_path / "out", [1, 2]

    def two_shards(task: ShardTask, folder: str, **named: Any) -> ShardRecord:
        return build_shard(task, folder, **named) if left and left.pop() else fail()

    if interrupted:
        with monkeypatch.context() as patch:
            patch.setattr("shards.build.engines.shard_maker.build_shard", two_shards)
            with pytest.raises(OSError, match="no more"):
                made(pets, out)
    running: list[list[str]] = []
    real = multiprocessing.get_context

    def context(method: str) -> object:
        running.append([thread.name for thread in threading.enumerate() if thread.name.startswith("flush")])
        return real(method)

    monkeypatch.setattr("shards.build.engines.executors.multiprocessing.get_context", context)
    built = build(pets, out, options(), workers=2)
    assert running == [[]]
    assert bool(built.resumed) == interrupted


def fail(*_: object, **__: object) -> NoReturn:
    raise OSError("no more")


@pytest.mark.parametrize("threaded", [True, False])
def test_a_script_without_a_guard_is_told_so(tiny_pets: Path, tmp_path: Path, threaded: bool) -> None:
    """Processes that cannot be forked import the script, which builds again; forked ones do not need the guard."""
    script = THREADED.replace('if __name__ == "__main__":', f"if {threaded} or True:")
    if not threaded:
        script = script.replace("threading.Thread(target=done.wait, daemon=True).start()", "pass")
    (tmp_path / "script.py").write_text(script)
    arguments = [tmp_path / "script.py", tiny_pets, tmp_path / "out", Path(__file__).parents[1]]
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120
    )
    if not threaded:
        assert done.returncode == 0, done.stderr
        return
    assert 'call build_shards() below if __name__ == "__main__"' in done.stderr.splitlines()[-1]
    assert "killed" not in done.stderr
    assert not list(tmp_path.glob("out*"))
