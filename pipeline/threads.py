"""Threads that can neither keep a process from ending nor be waited for for ever.

``concurrent.futures`` joins its threads when the interpreter exits, so that one read from a dead disk would hang the
program. These are daemon threads; what still runs at exit is stopped and given a moment first, since native code that
is cut off in the middle can crash.
"""

from __future__ import annotations

import atexit
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from shards.errors import PetsegError

T = TypeVar("T")

GRACE = 5.0  # seconds that a thread is given to finish what it is doing
LOOK = 1.0  # seconds after which whoever waits for a thread looks whether it is still there

_running: weakref.WeakSet[Any] = weakref.WeakSet()


def check_alive(threads: Iterable[threading.Thread]) -> None:
    """Raise ``PetsegError`` if a thread is gone.

    Threads do not survive ``os.fork``, which is how they come to be missing.
    """
    gone = [thread.name for thread in threads if not thread.is_alive()]
    if gone:
        raise PetsegError(
            f"a worker of the loader is gone ({gone[0]}): was this process forked after the loader was made? "
            "Make the loader in the process that uses it"
        )


class Workers:
    """Runs a function over the parts of a piece of work: fork and join, the calling thread among the workers.

    Args:
        count: how many threads work at a time, at least 1.
        name: of the threads.
    """

    def __init__(self, count: int, *, name: str) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=_work, args=(self._jobs,), name=f"{name}-{number}", daemon=True)
            for number in range(count - 1)
        ]
        for thread in self._threads:
            thread.start()
        _running.add(self)

    def run(self, function: Callable[[T], None], parts: Iterable[T]) -> None:
        """Call ``function`` once for each part, and return when all are done.

        Raises:
            BaseException: the first that a call raised; the other parts are finished nevertheless.
            PetsegError: a thread is gone.
        """
        waiting: queue.SimpleQueue[T] = queue.SimpleQueue()
        for part in parts:
            waiting.put(part)
        errors: list[BaseException] = []
        helpers = min(len(self._threads), max(0, waiting.qsize() - 1))
        done = threading.Semaphore(0)

        def drain() -> None:
            while True:
                try:
                    part = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    function(part)
                except BaseException as error:  # noqa: BLE001 - handed to the caller below
                    errors.append(error)

        def help_out() -> None:
            drain()
            done.release()

        for _ in range(helpers):
            self._jobs.put(help_out)
        drain()
        for _ in range(helpers):
            while not done.acquire(timeout=LOOK):
                check_alive(self._threads)
        if errors:
            raise errors[0]

    def stop(self) -> None:
        """End the threads; one that does not answer within a few seconds is left behind."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(GRACE)
        self._threads = []


def _work(jobs: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (job := jobs.get()) is not None:
        job()


class ReadAhead(Generic[T]):
    """Makes things ahead of time, in order, in one thread; never more than ``depth`` that were not taken yet.

    Args:
        make: called with each number in turn, in the thread.
        numbers: what to make.
        depth: how far ahead, at least 1.
        name: of the thread.
    """

    def __init__(self, make: Callable[[int], T], numbers: Iterable[int], *, depth: int, name: str) -> None:
        self._results: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
        self._free = threading.Semaphore(depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(make, numbers), name=name, daemon=True)
        self._thread.start()
        _running.add(self)

    def take(self, timeout: float) -> T:
        """Return the next thing, or raise what making it raised.

        Raises:
            TimeoutError: it is not there after ``timeout`` seconds.
            PetsegError: the thread is gone and has left nothing.
        """
        result, error = self._wait(time.monotonic() + timeout)
        self._free.release()
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    def stop(self) -> None:
        """Make nothing more; waits a few seconds for what is being made."""
        self._stopped.set()
        self._free.release()
        self._thread.join(GRACE)

    def _wait(self, deadline: float) -> tuple[T | None, BaseException | None]:
        while True:
            alive = self._thread.is_alive()  # asked first: its last result may come between the two
            left = deadline - time.monotonic()
            try:
                return self._results.get(timeout=max(0.0, min(left, LOOK if alive else 0.0)))
            except queue.Empty:
                if not alive:
                    check_alive([self._thread])
                if left <= LOOK:
                    raise TimeoutError from None

    def _run(self, make: Callable[[int], T], numbers: Iterable[int]) -> None:
        for number in numbers:
            self._free.acquire()
            if self._stopped.is_set():
                return
            try:
                self._results.put((make(number), None))
            except BaseException as error:  # noqa: BLE001 - raised in the thread that takes
                self._results.put((None, error))
                return


def stop_first_at_exit() -> None:
    """At exit, stop the threads before what was registered until now.

    Exit functions run last in, first out. A library that our threads use and that shuts itself down at exit (DALI)
    must not do so under a thread that is still running: to be called once it is imported.
    """
    atexit.unregister(_stop_all)
    atexit.register(_stop_all)


@atexit.register
def _stop_all() -> None:
    for each in list(_running):
        each.stop()
