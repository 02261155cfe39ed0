"""Shards built by the workers of a Ray cluster, as Ray tasks.

Ray runs the task of a worker that was lost again, up to ``max_retries`` times (docs.ray.io, "Fault tolerance: tasks").
"""

import contextlib
import logging
import os
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Self

from shards.build.engines.cluster_executor import ATTEMPTS, ClusterExecutor
from shards.errors import PetsegError, first_line, spelled


class RayExecutor(ClusterExecutor):
    """The workers of a Ray cluster; each of its CPUs builds a shard."""

    name = "Ray"

    def __init__(self, ray: Any, *, started: bool) -> None:
        self._ray, self._started = ray, started
        self._call = ray.remote(_call).options(num_cpus=1, max_retries=ATTEMPTS, name="petseg-shard build")

    @classmethod
    def connect(cls, address: str) -> Self:
        """Connect to a cluster; "": that of RAY_ADDRESS, or of this machine, or one that is started for this build.

        A connection that the process has already is used, and left as it is.
        Raises ``PetsegError`` if Ray is not installed, or no cluster answers.
        """
        try:
            import ray
        except ImportError:
            raise PetsegError(spelled("--executor=ray needs the package ray: pip install 'petseg[ray]'")) from None
        if ray.is_initialized():
            return cls(ray, started=False)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a cluster that is started here
        try:
            ray.init(address or None, logging_level=logging.ERROR, log_to_driver=False)
        except (OSError, RuntimeError, ValueError) as error:
            where = f"at {address}" if address else "here"
            raise PetsegError(
                f"no Ray cluster answers {where}: {first_line(error)}; start one with: ray start --head"
            ) from None
        return cls(ray, started=True)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See :class:`concurrent.futures.Executor`."""
        reference = self._call.remote(fn, args, kwargs)
        future: Future[Any] = Future()

        def arrived(result: Future[Any]) -> None:
            if future.set_running_or_notify_cancel():
                error = result.exception()
                future.set_result(result.result()) if error is None else future.set_exception(error)

        def cancelled(_: Future[Any]) -> None:
            if future.cancelled():
                with contextlib.suppress(Exception):
                    self._ray.cancel(reference, force=True)

        future.add_done_callback(cancelled)
        reference.future().add_done_callback(arrived)
        return future

    def capacity(self) -> int:
        """See :class:`ClusterExecutor`."""
        return int(self._ray.cluster_resources().get("CPU", 0))

    def cause(self, error: Exception) -> Exception:
        """See :class:`ClusterExecutor`."""
        from ray import exceptions

        if isinstance(error, exceptions.RayTaskError) and isinstance(error.cause, Exception):
            return error.cause
        if isinstance(error, exceptions.WorkerCrashedError | exceptions.OutOfMemoryError | exceptions.NodeDiedError):
            return PetsegError(
                f"{ATTEMPTS + 1} Ray workers were lost while they built the same shard, perhaps for lack of memory; "
                "run the same command again, with fewer CPUs per node or more memory"
            )
        if isinstance(error, exceptions.RayError | ConnectionError):
            return PetsegError(f"the Ray cluster has gone away ({type(error).__name__}); run the same command again")
        return error

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Disconnect, unless the process was connected before; a cluster that was started for this build ends."""
        if self._started:
            self._ray.shutdown()


def _call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return function(*args, **kwargs)
