"""Batches that are made elsewhere and only have to be requested in advance, by the thread that takes them."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from shards.errors import PetsegError

J = TypeVar("J")
T = TypeVar("T")


class RequestQueue(Generic[J, T]):
    """Has the interface of :class:`pipeline.runtime.threads.PrefetchQueue`; ``request`` returns at once."""

    def __init__(self, request: Callable[[J], T], jobs: Iterator[J], *, depth: int) -> None:
        self._request, self._jobs, self._depth = request, jobs, depth
        self._requested: deque[T | Exception] = deque()
        self._stopped = False
        self._fill()

    def take(self, timeout: float = 0) -> T:
        """Return what was requested first, or raise what requesting it raised; does not wait."""
        first = self._requested.popleft()
        self._fill()
        if isinstance(first, Exception):
            raise first
        return first

    def take_ready(self) -> T | None:
        """Return what was requested first, if anything was; see :meth:`take`."""
        return self.take() if self._requested else None

    def cancel(self) -> None:
        """Request nothing more."""
        self._stopped = True

    def stop(self) -> None:
        """Request nothing more, and forget what was requested."""
        self.cancel()
        self._requested.clear()

    def _fill(self) -> None:
        while not self._stopped and len(self._requested) < self._depth:
            try:
                self._requested.append(self._request(next(self._jobs)))
            except StopIteration:
                self._stopped = True
            except Exception as error:  # noqa: BLE001 - raised in its turn
                self._requested.append(error)
                self._stopped = True


def batch_timeout_error(seconds: float) -> PetsegError:
    """Return the error for a batch that takes too long."""
    return PetsegError(
        f"no batch within {seconds:g} seconds: the disk or a worker does not respond; "
        "check the storage, or give the loader a longer timeout"
    )
