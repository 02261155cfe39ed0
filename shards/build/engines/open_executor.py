"""``--executor``: the cluster that an option names."""

import contextlib
import re
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any

from shards.build.engines.cluster_executor import ClusterExecutor
from shards.errors import UsageError, is_whole_number, option, spelled


def check_executor(text: str | None) -> None:
    """Raise ``UsageError`` unless a text names an engine."""
    if text is not None and text != "ray" and not re.fullmatch(r"(dask|ray):.+", text):
        raise UsageError(
            f"{option('executor', text)} is none of dask:ADDRESS, dask:SCHEDULER_FILE.json, ray, ray:ADDRESS"
        )


def check_workers(workers: Any, executor: Executor | str | None) -> None:
    """Raise ``UsageError`` unless a build can have so many processes (None: as it chooses), or has others' workers."""
    if not isinstance(executor, Executor | str | None):
        raise UsageError(f"{option('executor', executor)}: give text such as dask:ADDRESS, or an executor")
    if workers is None:
        return
    if not is_whole_number(workers, 1):
        raise UsageError(f"{option('workers', workers)}: give a whole number from 1")
    if executor is not None:
        raise UsageError(
            spelled("--workers is for processes of this machine, which --executor replaces: give one of them")
        )


def connect(text: str) -> ClusterExecutor:
    """Connect to the cluster that ``dask:ADDRESS``, ``ray`` or ``ray:ADDRESS`` names.

    Raises ``UsageError`` for another form, and ``PetsegError`` if the extra is missing or nothing answers.
    """
    check_executor(text)
    engine, _, address = text.partition(":")
    if engine == "dask":
        from shards.build.engines.dask_cluster import DaskExecutor

        return DaskExecutor.connect(address)
    from shards.build.engines.ray_cluster import RayExecutor

    return RayExecutor.connect(address)


@contextlib.contextmanager
def open_executor(executor: Executor | str | None) -> Iterator[Executor | None]:
    """Connect to the cluster that a text names, for the time of the block; an executor is left as it is."""
    if not isinstance(executor, str):
        yield executor
        return
    connected = connect(executor)
    try:
        yield connected
    finally:
        connected.shutdown(cancel_futures=True)
