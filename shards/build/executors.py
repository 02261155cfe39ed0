"""The processes that build shards: they stop at a word, and never outlive the build."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from ctypes import c_int
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from multiprocessing.synchronize import Event
from typing import Any, ParamSpec, TypeVar

from shards.build.plan import ShardTask
from shards.build.write_shard import ShardRecord, build_shard

_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_KEPT_BYTES = 32 << 20  # the most that glibc takes for the second; pixels of larger pictures go back at once
_shared: _Shared | None = None
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class StoppedError(Exception):
    """The build was interrupted; the shard in the making is given up."""


@dataclass(frozen=True)
class _Shared:
    """What the workers see change. ``threads`` is a c_int: how many threads each shard may use."""

    stop: Event
    threads: Any


@dataclass(frozen=True)
class Workers:
    """Processes that build shards, and what they are told meanwhile."""

    executor: Executor
    cores: int
    _shared: _Shared

    def share(self, shards: int) -> None:
        """Let so many unfinished shards share the cores: the last ones get threads, for cores without a shard."""
        self._shared.threads.value = -(-self.cores // max(shards, 1))


def build_in_process(task: ShardTask, folder: str) -> ShardRecord:
    """Build a shard in one of :class:`Workers`."""
    return build_shard(task, folder, pause=_check_stop, threads=_threads)


def default_workers() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def pool(cores: int, shards: int) -> Iterator[Workers]:
    """Provide processes for :func:`build_in_process`, to build so many shards with so many cores.

    When the block is left by an exception, the workers give up their shards at the next sample.
    """
    context = _context()
    shared = _Shared(context.Event(), context.RawValue(c_int, 1))
    executor = _Processes(min(cores, shards), mp_context=context, initializer=_start_worker, initargs=(shared,))
    workers = Workers(executor, cores, shared)
    workers.share(shards)
    try:
        yield workers
    except BaseException:
        shared.stop.set()
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


class _Processes(ProcessPoolExecutor):
    """Starts its processes when work is submitted, and lets Ctrl-C wait meanwhile."""

    def submit(
        self, fn: Callable[_Arguments, _Result], /, *args: _Arguments.args, **kwargs: _Arguments.kwargs
    ) -> Future[_Result]:
        with _interrupts_held():
            return super().submit(fn, *args, **kwargs)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let Ctrl-C wait until the block has ended.

    For starting processes: what is interrupted in the middle of a fork, Python ignores, and the new process would be
    interrupted before it knows that it must leave this to the build.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows: no forks, and no signals to hold
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _context() -> BaseContext:
    """Fork where it is safe, because it starts at once; else a server that was forked early."""
    lone = threading.active_count() == 1 and "torch" not in sys.modules
    method = "fork" if lone and sys.platform == "linux" else "forkserver"
    return multiprocessing.get_context(method)


def _start_worker(shared: _Shared) -> None:
    """Leave Ctrl-C to the build, and die with it."""
    global _shared  # noqa: PLW0603 - an initializer has no other way to hand something to the tasks
    _shared = shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _keep_memory()
    threading.Thread(target=_follow_parent, name="follow-parent", daemon=True).start()


def _keep_memory() -> None:
    """Keep freed memory for the next picture: its pages would be taken from the system, and cleared, every time.

    Only here, in processes of our own: a caller's is not ours to set up. Without glibc, nothing changes.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        set_option(_M_MMAP_THRESHOLD, _KEPT_BYTES)


def _follow_parent() -> None:
    """End this worker when the process that started it ends, however it ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _check_stop() -> None:
    if _shared is not None and _shared.stop.is_set():
        raise StoppedError


def _threads() -> int:
    return 1 if _shared is None else int(_shared.threads.value)
