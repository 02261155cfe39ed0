"""What the executors of clusters have in common: how many shards they take at once, how their errors are explained."""

import contextlib
from abc import abstractmethod
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Final

ATTEMPTS: Final = 4  # workers that may be lost with one shard, before it is the shard that is to blame


class ClusterExecutor(Executor):
    """An executor whose workers are those of a cluster: they come and go, and see other folders than this machine."""

    name: str  # of the engine, for messages

    @abstractmethod
    def capacity(self) -> int:
        """Return how many shards the workers that there are now can build at the same time."""

    @abstractmethod
    def cause(self, error: Exception) -> Exception:
        """Return what a user is told instead of an error of the engine; other errors are returned as they are."""

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Raise what :meth:`cause` returns in place of the engine's errors."""
        try:
            yield
        except Exception as error:
            cause = self.cause(error)
            if cause is error:
                raise
            raise cause from None
