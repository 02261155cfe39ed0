"""The CPU engine in worker processes, which make whole batches in shared memory.

Threads share one interpreter: where a batch takes less than a few milliseconds, they spend much of their time waiting
for its lock.
"""

import pickle
from typing import Any, cast

import torch

from pipeline.engine import BatchWork, EngineOptions
from pipeline.io.damage import DamagedSamples
from pipeline.io.members import MemberReader
from pipeline.workers.protocol import WorkerSetup, slot_shapes, write_work
from pipeline.workers.shared_memory import SharedPool
from pipeline.workers.worker_pool import PendingBatch, WorkerPool
from shards.errors import PetsegError


class ProcessEngine:
    """Requests batches from worker processes: whichever is free takes the next request.

    ``prepare`` sends a request and returns at once, ``finish`` waits for the reply. Only where requests of a dropped
    stream are still pending, ``prepare`` waits for their replies first: the new requests need their memory. The workers
    open tars of their own; those of ``reader`` are watched for changes.
    """

    name = "torch"
    makers = 0
    ahead = 0

    def __init__(self, options: EngineOptions, reader: MemberReader, *, processes: int, timeout: float) -> None:
        self._reader = reader
        self._timeout = timeout
        self._prefetch = options.prefetch
        self._memory = SharedPool(slot_shapes(options), spare=options.spare)
        self.batch_bytes: int | None = self._memory.bytes_each
        self._setup = pickle.dumps(WorkerSetup(split=reader.split, options=options))
        self._processes = processes
        self._pool: WorkerPool | None = self._start_pool()

    def prepare(self, work: BatchWork) -> PendingBatch:
        """Request the batch; raises ``PetsegError`` if a worker has ended or does not reply, or out of memory."""
        if self._pool is None or self._pool.ended:
            self._pool = self._start_pool()
        self._pool.wait_for_room(self._prefetch, self._timeout)
        self._reader.files.need(work.indices, work.rows)  # the workers find it in the cache
        self._reader.files.watch(work.rows)
        slot, arrays = self._memory.take()
        write_work(work, arrays[2])
        return self._pool.request(slot, arrays, count=len(work), generation=self._reader.files.generation)

    def start(self, prepared: Any) -> Any:
        """Return the pending batch: there is no device part."""
        return prepared

    def finish(self, started: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Wait for the batch that was requested; raises ``PetsegError`` as ``prepare`` does."""
        batch = cast(PendingBatch, started)
        report = batch.pool.wait_for(batch, self._timeout)
        if (remote := self._reader.files.remote) is not None:
            remote.retries.update(report.retries)
        if report.damaged:
            raise DamagedSamples(report.damaged)
        if report.error:
            raise PetsegError(report.error)
        images, masks, _ = batch.arrays
        # The tensors must hold the arrays themselves, not views: see LentArray.
        return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks)

    def close(self) -> None:
        """End the processes."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.end()

    def _start_pool(self) -> WorkerPool:
        return WorkerPool(self._setup, self._memory.descriptor, self._processes)
