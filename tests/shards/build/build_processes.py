"""Builds in processes of their own, to kill and disturb."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from shard_sources import options
from waiting import PATIENCE, wait_until

from shards.build.build_set import build
from shards.build.options import PackOptions

STEPS = ("fsync", "rename", "replace", "unlink", "mkdir", "rmdir", "link")
PROGRAM = Path(sys.executable).parent / "petseg-shard"


def start(source: Path, out: Path, *more: str, **named: object) -> subprocess.Popen[str]:
    arguments = [PROGRAM, "build", source, out, "--samples-per-shard", "4", "--workers", "2", *more]
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        list(map(str, arguments)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **named
    )


def build_afresh(source: Path, out: Path, chosen: PackOptions) -> None:
    """Build in a forked process, with a fork server of its own: the parent's, if it has one, belongs to the parent."""
    forkserver._forkserver.__init__()  # type: ignore[misc]
    build(source, out, chosen)


@contextlib.contextmanager
def killed_build(source: Path, out: Path, **chosen: Any) -> Iterator[BaseProcess]:
    """Build in a forked process, which is killed when the block ends; wait for the end of its workers, too."""
    process = multiprocessing.get_context("fork").Process(target=build_afresh, args=(source, out, options(**chosen)))
    process.start()
    try:
        yield process
    finally:
        workers = children(process.pid) if process.is_alive() and process.pid else []
        process.kill()
        process.join()
        assert_gone(workers)


def wait_for_a_shard(out: Path, is_running: Callable[[], bool]) -> None:
    """Wait until a shard is finished, and the build is not."""
    deadline = time.monotonic() + PATIENCE
    while not list(out.with_name(f"{out.name}.building").glob(".work/*.done")):
        assert time.monotonic() < deadline
        assert is_running()
        time.sleep(0.002)


def killed_at(step: int, function: Callable[[], object]) -> bool:
    """Run a function in a child that kills itself before its ``step``-th change to the disk; True if it came there."""
    child = os.fork()
    if child == 0:
        count = 0

        def counted(real: Callable[..., object]) -> Callable[..., object]:
            def call(*arguments: object, **named: object) -> object:
                nonlocal count
                count += 1
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **named)

            return call

        try:
            for name in STEPS:
                setattr(os, name, counted(getattr(os, name)))
            function()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def children(pid: int) -> list[int]:
    """Return the children of a process; none if it has just ended."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def assert_gone(pids: list[int]) -> None:
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() and "Z" not in _state(pid) for pid in pids))


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"
