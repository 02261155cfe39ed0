"""A Dask scheduler and three workers, each a process; forked from one that has imported everything already.

Prints the scheduler's address and the workers' numbers, and ends them all when its input ends.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable

from distributed import Scheduler, Worker

import shards.build.engines.shard_maker  # noqa: F401 - before the fork

WORKERS = 3


def forked(serve: Callable[[], Awaitable[None]]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        asyncio.run(serve())  # type: ignore[arg-type]
    finally:
        os._exit(0)


async def schedule(write: int) -> None:
    async with Scheduler(host="127.0.0.1", port=0, dashboard=False) as scheduler:
        os.write(write, scheduler.address.encode() + b"\n")
        await scheduler.finished()


async def work(address: str) -> None:
    async with Worker(address, nthreads=1, host="127.0.0.1", dashboard=False) as worker:
        await worker.finished()


def main() -> None:
    read, write = os.pipe()
    children = [forked(lambda: schedule(write))]
    with os.fdopen(read) as reader:
        address = reader.readline().strip()
    children += [forked(lambda: work(address)) for _ in range(WORKERS)]
    print(json.dumps({"address": address, "workers": children[1:]}), flush=True)  # noqa: T201
    sys.stdin.read()
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
