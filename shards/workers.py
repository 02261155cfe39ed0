"""The processes that build shards: they stop at a word, and never outlive the build."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing.context import BaseContext
from multiprocessing.synchronize import Event

from shards.plan import ShardTask
from shards.worker import ShardRecord, build_shard

_PR_SET_PDEATHSIG = 1
_stop: Event | None = None


class StoppedError(Exception):
    """The build was interrupted; the shard in the making is given up."""


def build_in_process(task: ShardTask, folder: str) -> ShardRecord:
    """Build a shard in a worker of :func:`pool`."""
    return build_shard(task, folder, pause=_check_stop)


def default_workers() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def pool(workers: int) -> Iterator[Executor]:
    """Provide an executor of ``workers`` processes, for :func:`build_in_process`.

    When the block is left by an exception, the workers give up their shards at the next sample.
    """
    context = _context()
    stop = context.Event()
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(stop,))
    try:
        yield executor
    except BaseException:
        stop.set()
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _context() -> BaseContext:
    """Fork where it is safe, because it starts at once; else a server that was forked early."""
    lone = threading.active_count() == 1 and "torch" not in sys.modules
    method = "fork" if lone and sys.platform == "linux" else "forkserver"
    return multiprocessing.get_context(method)


def _start_worker(stop: Event) -> None:
    """Leave Ctrl-C to the build, and die with it."""
    global _stop  # noqa: PLW0603 - an initializer has no other way to hand something to the tasks
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_follow_parent, name="follow-parent", daemon=True).start()


def _follow_parent() -> None:
    """End this worker when the process that started it ends, however it ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _check_stop() -> None:
    if _stop is not None and _stop.is_set():
        raise StoppedError
