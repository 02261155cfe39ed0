"""Shards built by the workers of a Dask cluster, through Dask's own executor (``Client.get_executor``).

The scheduler gives the shard of a worker that is lost to another one (docs: distributed.dask.org, "Resilience"), and
gives it up with ``KilledWorker`` after ``distributed.scheduler.allowed-failures`` losses.
"""

import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any, Self

from shards.build.engines.cluster_executor import ClusterExecutor
from shards.errors import PetsegError, spelled

_PATIENCE = "10s"  # for a scheduler that is not there
_FRESH = 2.0  # seconds for which the number of threads is taken as known


class DaskExecutor(ClusterExecutor):
    """The workers of a Dask cluster; each of their threads builds a shard."""

    name = "Dask"

    def __init__(self, client: Any) -> None:
        self._client = client
        self._executor = client.get_executor(pure=False)  # pure: results would be looked up by the arguments' hash
        self._capacity, self._counted = 0, 0.0

    @classmethod
    def connect(cls, address: str) -> Self:
        """Connect to the scheduler at an address, or in the scheduler file (``.json``) that it has written.

        Raises ``PetsegError`` if ``distributed`` is not installed, or no scheduler answers.
        """
        try:
            from distributed import Client
        except ImportError:
            raise PetsegError(
                spelled("--executor=dask needs the package distributed: pip install 'petseg[dask]'")
            ) from None
        where = {"scheduler_file": address} if address.endswith(".json") else {"address": address}
        try:
            client = Client(**where, timeout=_PATIENCE, set_as_default=False, name="petseg-shard build")
        except (OSError, ValueError) as error:  # TimeoutError is an OSError; ValueError: no such form of address
            raise PetsegError(
                f"no Dask scheduler answers at {address}: {str(error) or 'no answer'}; start one with: dask scheduler"
            ) from None
        return cls(client)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See :class:`concurrent.futures.Executor`."""
        future: Future[Any] = self._executor.submit(fn, *args, **kwargs)
        return future

    def capacity(self) -> int:
        """See :class:`ClusterExecutor`."""
        if (now := time.monotonic()) - self._counted > _FRESH:
            self._capacity, self._counted = sum(self._client.nthreads().values()), now
        return self._capacity

    def cause(self, error: Exception) -> Exception:
        """See :class:`ClusterExecutor`."""
        from distributed.comm import CommClosedError
        from distributed.scheduler import KilledWorker

        if isinstance(error, KilledWorker):
            return PetsegError(
                f"{error.allowed_failures + 1} Dask workers were lost while they built the same shard, the last one on "
                f"{error.last_worker.address}, perhaps for lack of memory; run the same command again, with fewer "
                "threads per worker or more memory"
            )
        if isinstance(error, CancelledError | CommClosedError):
            return PetsegError("the Dask scheduler has gone away; start it and run the same command again")
        if isinstance(error, ModuleNotFoundError):
            return PetsegError(f"a Dask worker lacks the module {error.name}: install petseg there, the same version")
        return error

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Disconnect; shards that are waiting are given up with it. The cluster goes on."""
        self._client.close()
