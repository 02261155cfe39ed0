"""Where shards are built: in this process, in worker processes that never outlive the build, in a user's executor."""

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from ctypes import c_int
from functools import partial
from itertools import islice
from multiprocessing.synchronize import Event
from queue import SimpleQueue
from typing import Any, Final

from shards.build.engines.cluster_executor import ClusterExecutor
from shards.build.engines.shard_maker import OnWorker, ShardMaker
from shards.build.outcome.library_versions import library_versions
from shards.build.plan import ShardTask
from shards.build.write_shard import ShardRecord
from shards.cores import usable_cores
from shards.errors import UsageError

_log = logging.getLogger("petseg.files")
_MOST_SUBMITTED: Final = 4096  # shards, to an executor of whose workers nothing is known
_NEVER_FORKED: Final = {"torch", "obstore"}  # packages whose threads a forked process would lack
_AHEAD: Final = 2  # times the shards that a cluster builds at once are submitted: a worker never waits for the next

_NO_GUARD = (
    "worker processes import the script that starts them, and this one starts to build again; call build_shards() "
    'below if __name__ == "__main__": (or with workers=1)'
)

# What worker processes watch, set in them only. ``_threads`` is a c_int: how many threads each shard may use.
_stop: Event
_threads: Any


class StoppedError(Exception):
    """The build was interrupted; the unfinished shard is abandoned."""


def refuse_nested_build() -> None:
    """End a worker process that, while it starts, has imported a script that builds; its parent says why.

    Only the child knows that it is still being set up (``_inheriting``, which multiprocessing checks for the same
    purpose), and nothing that is passed to it has arrived yet.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        sys.exit(_NO_GUARD)


def build_in_order(
    tasks: Mapping[int, ShardTask], make: ShardMaker, *, workers: int | None, executor: Executor | None
) -> Generator[tuple[int, ShardRecord]]:
    """Build shards, started in the order of ``tasks``; yield each key of it with the shard's record when it is done.

    They are built in ``executor``, if given, else in ``workers`` processes; None: the cores that this process may use.
    An executor gets only so many at a time that none of its workers has to wait, see :class:`ClusterExecutor`.
    Raises ``UsageError`` where no process can start because the script lacks a guard.
    """
    cores = workers or usable_cores()
    if isinstance(executor, ClusterExecutor):
        with executor.explained():
            on_worker = OnWorker(make, library_versions())
            yield from _submitted(executor, on_worker, tasks, most=lambda: _AHEAD * executor.capacity())
    elif executor is not None:
        yield from _submitted(executor, make, tasks, most=lambda: _MOST_SUBMITTED)
    elif cores == 1:
        for index, task in tasks.items():
            yield index, make(task)
    elif tasks:
        yield from _in_processes(tasks, make, cores)


def _submitted(
    executor: Executor,
    function: Callable[[ShardTask], ShardRecord],
    tasks: Mapping[int, ShardTask],
    *,
    most: Callable[[], int],
    submitting: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
) -> Iterator[tuple[int, ShardRecord]]:
    """Yield results as they come; at most ``most`` shards (at least one) are submitted and not finished at a time."""
    waiting = iter(tasks.items())
    in_flight: dict[Future[ShardRecord], int] = {}
    done: SimpleQueue[Future[ShardRecord]] = SimpleQueue()
    try:
        while True:
            with submitting():
                for index, task in islice(waiting, max(most(), 1, len(in_flight)) - len(in_flight)):
                    future = executor.submit(function, task)
                    in_flight[future] = index
                    future.add_done_callback(done.put)
            if not in_flight:
                return
            future = done.get()
            yield in_flight.pop(future), future.result()
    except BaseException:
        for future in in_flight:
            future.cancel()
        raise


def _in_processes(tasks: Mapping[int, ShardTask], make: ShardMaker, cores: int) -> Iterator[tuple[int, ShardRecord]]:
    """Build shards in worker processes, which abandon their shards at the next sample if this is left early."""
    # Fork where it is safe, because it starts at once; else a server that was forked early.
    alone = threading.active_count() == 1 and not _NEVER_FORKED & sys.modules.keys()
    context = multiprocessing.get_context("fork" if alone and sys.platform == "linux" else "forkserver")
    unfinished = len(tasks)
    try:
        stop, threads = context.Event(), context.RawValue(c_int, -(-cores // unfinished))
        started = context.RawValue(c_int, 0)
    except OSError as error:  # containers without /dev/shm, or with one that is read-only or full
        _log.warning("no worker processes: /dev/shm takes no semaphore (%s); packing in one process", error.strerror)
        for index, task in tasks.items():
            yield index, make(task, threads=lambda: cores)
        return
    workers = min(cores, unfinished)
    _expect_threads(2 + 2 * workers)  # two of the pool; each worker and what it follows its parent by
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(stop, threads, started)
    )
    try:
        make_here = partial(_build_in_worker, make)
        for result in _submitted(pool, make_here, tasks, most=lambda: len(tasks), submitting=_interrupts_held):
            unfinished -= 1  # the last shards get threads, for the cores without a shard
            threads.value = -(-cores // max(unfinished, 1))
            yield result
    except BrokenProcessPool:
        if not started.value and context.get_start_method() != "fork":
            raise UsageError(_NO_GUARD) from None
        raise
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _expect_threads(number: int) -> None:
    """Raise ``RuntimeError`` if so many threads cannot be started, which count as processes do (``ulimit -u``).

    Where a pool's own thread cannot start, the pool says nothing, and its results are waited for for ever.
    """
    ended, threads = threading.Event(), list[threading.Thread]()
    try:
        for _ in range(number):
            thread = threading.Thread(target=ended.wait, daemon=True)
            thread.start()
            threads.append(thread)
    finally:
        ended.set()
        for thread in threads:
            thread.join()


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


def _start_worker(stop: Event, threads: Any, started: Any) -> None:
    """Leave Ctrl-C to the build, and end with it; note that a process has come this far."""
    global _stop, _threads  # an initializer has no other way to pass something to the tasks
    _stop, _threads = stop, threads
    started.value = 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):  # the build's handlers are not the worker's
        signal.signal(number, signal.SIG_DFL)
    threading.Thread(target=_follow_parent, name="follow-parent", daemon=True).start()


def _follow_parent() -> None:
    """End this worker when the process that started it ends, however it ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _build_in_worker(make: ShardMaker, task: ShardTask) -> ShardRecord:
    def check_stop() -> None:
        if _stop.is_set():
            raise StoppedError

    return make(task, pause=check_stop, threads=lambda: int(_threads.value))
