"""A loader is for one thread at a time: its position, its buffers and its workers' replies belong to one reader."""

import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

from shards.errors import PetsegError

T = TypeVar("T")


class LoaderThreadsError(PetsegError, RuntimeError):
    """Two threads used a loader at the same time."""

    def __init__(self) -> None:
        super().__init__(
            "another thread is using this loader now: give each thread a loader of its own, or let one thread take the "
            "batches and pass them on, as through a queue.Queue"
        )


class OneThread:
    """Held while a loader is used; :class:`LoaderThreadsError` for another thread that would use it meanwhile."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal's handler runs in the thread that it interrupts

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise LoaderThreadsError

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class GuardedBatches(Iterator[T], Generic[T]):
    """Passes on batches, to one thread at a time."""

    def __init__(self, batches: Iterator[T], one_thread: OneThread) -> None:
        self._batches, self._one_thread = batches, one_thread

    def __next__(self) -> T:
        with self._one_thread:
            return next(self._batches)
