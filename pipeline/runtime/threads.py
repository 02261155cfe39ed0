"""Threads that never keep a process from ending.

``concurrent.futures`` joins its threads when the interpreter exits, so that one read from a dead disk would hang the
program. These are daemon threads. At exit they are stopped first: native code that is cut off can crash. What is being
made is given up at the next sample (see :mod:`pipeline.io.abandoned`), and a thread that does not respond within a few
seconds is left behind.
"""

import atexit
import contextlib
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from pipeline.io.abandoned import check_wanted, current_work, work_for

J = TypeVar("J")
T = TypeVar("T")
Jobs = queue.SimpleQueue[Callable[[], None] | None]
Result = tuple[T | None, BaseException | None]

STOP_SECONDS = 5.0  # that threads are given to finish the sample they are at

_running: weakref.WeakSet[Any] = weakref.WeakSet()


class WorkerThreads:
    """Runs a function over the parts of a piece of work in ``count`` threads, of which the caller's is one."""

    def __init__(self, count: int, *, name: str) -> None:
        self._jobs: Jobs = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=_work, args=(self._jobs,), name=f"{name}-{number}", daemon=True)
            for number in range(count - 1)
        ]
        for thread in self._threads:
            thread.start()
        weakref.finalize(self, _end, self._jobs, len(self._threads)).atexit = False  # if it is dropped without stop()
        _running.add(self)

    def run(self, function: Callable[[T], None], parts: Iterable[T]) -> None:
        """Call ``function`` once for each part; raise the first error when all are done."""
        waiting: queue.SimpleQueue[T] = queue.SimpleQueue()
        for part in parts:
            waiting.put(part)
        errors: list[BaseException] = []
        helpers = min(len(self._threads), max(0, waiting.qsize() - 1))
        done = threading.Semaphore(0)
        abandoned = current_work()

        def drain() -> None:
            while True:
                try:
                    part = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    check_wanted()
                    function(part)
                except BaseException as error:  # noqa: BLE001 - raised by the caller below
                    errors.append(error)

        def help_out() -> None:
            with work_for(abandoned):
                drain()
            done.release()

        for _ in range(helpers):
            self._jobs.put(help_out)
        drain()
        for _ in range(helpers):
            done.acquire()
        function = _nothing  # a helper may hold on to this call for a moment, but not to what it worked on
        if errors:
            raise errors[0]

    def abandon(self) -> None:
        """Do nothing: the work of these threads is abandoned by whoever calls :meth:`run`."""

    def stop(self) -> None:
        """End the threads; those that do not respond within a few seconds are left behind."""
        _end(self._jobs, len(self._threads))
        _join(self._threads)
        self._threads = []


def _nothing(_: object) -> None:
    """Replace a function that has done its work."""


def _join(threads: list[threading.Thread]) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def _end(jobs: Jobs, count: int) -> None:
    for _ in range(count):
        jobs.put(None)


def _work(jobs: Jobs) -> None:
    while (job := jobs.get()) is not None:
        job()
        del job


class PrefetchQueue(Generic[J, T]):
    """Makes results in advance, each in one of a few threads; at most ``depth`` that were not taken yet.

    They are returned in the order of the jobs. After a job that failed no further one is started. ``jobs`` may be
    endless; it is advanced by one thread at a time.
    """

    def __init__(self, make: Callable[[J], T], jobs: Iterator[J], *, depth: int, threads: int = 1, name: str) -> None:
        self._make = make
        self._jobs = jobs
        self._claim = threading.Lock()
        self._claimed = 0
        self._taken = 0
        self._stopped = self._abandoned = False
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()  # an entry for each job that may be started
        for _ in range(depth):
            self._room.put(None)
        self._results: queue.SimpleQueue[tuple[int, Result[T]]] = queue.SimpleQueue()
        self._early: dict[int, Result[T]] = {}  # made before their turn
        self._threads = [
            threading.Thread(target=self._run, name=name if threads == 1 else f"{name}-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()
        _running.add(self)

    def take(self, timeout: float) -> T:
        """Return the next result, or raise what making it raised; ``TimeoutError`` after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while self._taken not in self._early:
            try:
                number, result = self._results.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise TimeoutError from None
            self._early[number] = result
        return self._next()

    def take_ready(self) -> T | None:
        """Return the next result if it is there, or raise what making it raised; None if it is not there yet."""
        with contextlib.suppress(queue.Empty):
            while self._taken not in self._early:
                number, result = self._results.get_nowait()
                self._early[number] = result
        return self._next() if self._taken in self._early else None

    def cancel(self) -> None:
        """Start nothing more; does not wait."""
        self._stopped = True
        for _ in self._threads:
            self._room.put(None)

    def abandon(self) -> None:
        """Start nothing more, and have what is being made given up; does not wait."""
        self._abandoned = True
        self.cancel()

    def stop(self) -> None:
        """Abandon what is being made, and wait a few seconds until that is done."""
        self.abandon()
        _join(self._threads)

    def _next(self) -> T:
        result, error = self._early.pop(self._taken)
        self._taken += 1
        self._room.put(None)
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    def _run(self) -> None:
        with work_for(lambda: self._abandoned):
            while self._make_one():  # a separate method, so that no result is kept
                pass

    def _make_one(self) -> bool:
        """Make the next result; return whether there may be more."""
        self._room.get()
        with self._claim:
            if self._stopped:
                return False
            number = self._claimed
            self._claimed += 1
            try:
                job = next(self._jobs)
            except StopIteration:
                self.cancel()
                return False
            except BaseException as error:  # noqa: BLE001 - raised in the thread that takes
                return self._fail(number, error)
        try:
            self._results.put((number, (self._make(job), None)))
        except BaseException as error:  # noqa: BLE001 - raised in the thread that takes
            return self._fail(number, error)
        return True

    def _fail(self, number: int, error: BaseException) -> bool:
        self.cancel()
        self._results.put((number, (None, error)))
        return False


def stop_first_at_exit() -> None:
    """At exit, stop the threads before anything registered until now.

    A library that the threads use and that shuts itself down at exit (DALI) must not do so under a running thread:
    call this once it is imported. Exit functions run last in, first out.
    """
    atexit.unregister(_stop_all)
    atexit.register(_stop_all)


@atexit.register
def _stop_all() -> None:
    running = list(_running)
    for each in running:
        each.abandon()
    for each in running:
        each.stop()
