"""Where shards are built: in this process, in worker processes that never outlive the build, in a user's executor."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from ctypes import c_int
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from multiprocessing.synchronize import Event
from typing import Any

from shards.build.plan import ShardTask
from shards.build.write_shard import ShardRecord, build_shard

_shared: _Shared | None = None


class StoppedError(Exception):
    """The build was interrupted; the unfinished shard is abandoned."""


@dataclass(frozen=True)
class _Shared:
    """What worker processes watch. ``threads`` is a c_int: how many threads each shard may use."""

    stop: Event
    threads: Any

    def check_stop(self) -> None:
        if self.stop.is_set():
            raise StoppedError


def default_workers() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def build_in_order(
    tasks: Sequence[ShardTask], order: Sequence[int], folder: str, *, workers: int | None, executor: Executor | None
) -> Generator[tuple[int, ShardRecord]]:
    """Build shards, started in ``order`` (indices of tasks); yield each index with the shard's record when it is done.

    They are built in ``executor``, if given, else in ``workers`` processes; None: the cores that this process may use.
    """
    cores = workers or default_workers()
    if executor is not None:
        submit = executor.submit
        yield from _submitted(order, lambda i: submit(build_shard, tasks[i], folder), contextlib.nullcontext())
    elif cores == 1:
        for index in order:
            yield index, build_shard(tasks[index], folder)
    elif order:
        yield from _in_processes(tasks, order, folder, cores)


def _submitted(
    order: Sequence[int],
    submit: Callable[[int], Future[ShardRecord]],
    submitting: contextlib.AbstractContextManager[None],
) -> Iterator[tuple[int, ShardRecord]]:
    futures: dict[Future[ShardRecord], int] = {}
    try:
        with submitting:
            for index in order:
                futures[submit(index)] = index
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BaseException:
        for future in futures:
            future.cancel()
        raise


def _in_processes(
    tasks: Sequence[ShardTask], order: Sequence[int], folder: str, cores: int
) -> Iterator[tuple[int, ShardRecord]]:
    """Build shards in worker processes, which abandon their shards at the next sample if this is left early."""
    context = _context()
    shared = _Shared(context.Event(), context.RawValue(c_int, 1))
    pool = ProcessPoolExecutor(
        min(cores, len(order)), mp_context=context, initializer=_start_worker, initargs=(shared,)
    )
    try:
        unfinished = len(order)
        shared.threads.value = -(-cores // unfinished)
        submit = pool.submit
        for result in _submitted(order, lambda i: submit(_build_in_worker, tasks[i], folder), _interrupts_held()):
            unfinished -= 1  # the last shards get threads, for the cores without a shard
            shared.threads.value = -(-cores // max(unfinished, 1))
            yield result
    except BaseException:
        shared.stop.set()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let Ctrl-C wait while processes start.

    Python ignores what interrupts the middle of a fork, and the new process would be interrupted before it knows that
    it must leave this to the build.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _context() -> BaseContext:
    """Fork where it is safe, because it starts at once; else a server that was forked early."""
    alone = threading.active_count() == 1 and "torch" not in sys.modules
    return multiprocessing.get_context("fork" if alone and sys.platform == "linux" else "forkserver")


def _start_worker(shared: _Shared) -> None:
    """Leave Ctrl-C to the build, and end with it."""
    global _shared  # noqa: PLW0603 - an initializer has no other way to pass something to the tasks
    _shared = shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, name="follow-parent", daemon=True).start()


def _follow_parent() -> None:
    """End this worker when the process that started it ends, however it ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _build_in_worker(task: ShardTask, folder: str) -> ShardRecord:
    shared = _shared
    assert shared is not None, "a worker process starts with _start_worker"
    return build_shard(task, folder, pause=shared.check_stop, threads=lambda: int(shared.threads.value))
