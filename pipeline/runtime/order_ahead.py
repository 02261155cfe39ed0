"""Things that are made elsewhere and only have to be ordered: ahead of time, by the thread that takes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from shards.errors import PetsegError

J = TypeVar("J")
T = TypeVar("T")


class OrderAhead(Generic[J, T]):
    """Orders things ahead of time, never more than ``depth`` that were not taken yet; no thread is needed for that.

    They are handed out in the order of the jobs. After a job that failed no further one is begun.

    Args:
        order: called with each job; makes nothing itself.
        jobs: what to make, perhaps without an end.
        depth: how far ahead, at least 1.
    """

    def __init__(self, order: Callable[[J], T], jobs: Iterator[J], *, depth: int) -> None:
        self._order, self._jobs, self._depth = order, jobs, depth
        self._ordered: deque[T | Exception] = deque()
        self._stopped = False
        self._fill()

    def take(self, timeout: float) -> T:
        """Return what was ordered first, or raise what ordering it raised.

        Args:
            timeout: of no meaning here; whoever waits for what was ordered has one of its own.
        """
        first = self._ordered.popleft()
        self._fill()
        if isinstance(first, Exception):
            raise first
        return first

    def take_ready(self) -> T | None:
        """Return what was ordered first, or raise what ordering it raised; None at the end."""
        return self.take(0) if self._ordered else None

    def cancel(self) -> None:
        """Order nothing more."""
        self._stopped = True

    def stop(self) -> None:
        """Order nothing more, and forget what was ordered."""
        self.cancel()
        self._ordered.clear()

    def _fill(self) -> None:
        while not self._stopped and len(self._ordered) < self._depth:
            try:
                self._ordered.append(self._order(next(self._jobs)))
            except StopIteration:
                self._stopped = True
            except Exception as error:  # noqa: BLE001 - raised when its turn comes
                self._ordered.append(error)
                self._stopped = True


def no_batch_within(seconds: float) -> PetsegError:
    """Return what is raised where a batch takes too long."""
    return PetsegError(
        f"no batch within {seconds:g} seconds: the disk or a worker does not answer; "
        "look at the storage, or give the loader a longer timeout"
    )
