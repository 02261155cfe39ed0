"""Batches are prepared in advance and delivered in order, across the ends of epochs.

Which samples a batch holds is decided by :mod:`pipeline.runtime.batch_plan`.
"""

import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.engine import BatchWork, Engine
from pipeline.io.damage import DamagedSamples, DamagePolicy
from pipeline.runtime.batch_plan import BatchIndices, BatchPlan
from pipeline.runtime.fetch_ahead import fetched_ahead
from pipeline.runtime.request_queue import RequestQueue, batch_timeout_error
from pipeline.runtime.threads import PrefetchQueue
from shards.errors import PetsegError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class PreparedBatch:
    """A batch that is prepared, perhaps with samples that replace others."""

    samples: BatchIndices
    prepared: Any  # by the engine; None where there are more damaged samples than may be replaced
    found: dict[int, str]  # by sample index: what is wrong with those that were replaced


class BatchStream:
    """The batches of a plan from a given one on, in order; if ``endless``, epoch after epoch."""

    def __init__(
        self,
        plan: BatchPlan,
        engine: Engine,
        policy: DamagePolicy,
        *,
        timeout: float,  # seconds to wait for a batch
        epoch: int,
        first: int,  # number of the first batch in that epoch
        endless: bool,
    ) -> None:
        self._plan, self._engine, self._policy, self._timeout = plan, engine, policy, timeout
        self._epoch, self._number, self._endless = epoch, first, endless
        self._started: deque[PreparedBatch | Exception] = deque()
        self._maker = BatchMaker(plan, engine, policy)
        batches = fetched_ahead(plan, plan.batches(epoch, first, endless=endless))
        depth = plan.options.prefetch + (0 if engine.ahead else 1)
        make = self._maker.make
        self.queue: PrefetchQueue[Any, PreparedBatch] | RequestQueue[Any, PreparedBatch]
        if engine.makers:
            self.queue = PrefetchQueue(make, batches, depth=depth, threads=engine.makers, name="petseg-prefetch")
        else:
            self.queue = RequestQueue(make, batches, depth=depth)

    def is_at(self, epoch: int, number: int) -> bool:
        """Whether the next batch is this one."""
        if self._number == self._plan.slices.batches:
            return False  # it has ended
        return self._number == number and (self._epoch == epoch or self._plan.same_every_epoch)

    def take(self) -> "tuple[BatchIndices, torch.Tensor, torch.Tensor]":
        """Return samples, image and mask of the next batch. After an exception the stream cannot be used any more."""
        batch = self._started.popleft() if self._started else self._next()
        if isinstance(batch, Exception):
            raise batch
        samples, image, mask = self._finish(batch)
        self._start_next()
        self._number += 1
        if self._number == self._plan.slices.batches and self._endless:
            self._epoch, self._number = self._epoch + 1, 0
        return samples, image, mask

    def stop(self) -> None:
        """Prepare nothing more, and drop what is prepared; waits a few seconds for batches in preparation."""
        self.queue.stop()
        if (remote := self._plan.reader.files.remote) is not None:
            remote.stop()
        self._policy.forget()
        while self._started:
            started = self._started.popleft()
            if isinstance(started, PreparedBatch) and started.prepared is not None:
                with contextlib.suppress(DamagedSamples):  # finished, so that it is not taken for the next one
                    self._engine.finish(started.prepared)

    def _next(self) -> PreparedBatch:
        try:
            batch = self.queue.take(self._timeout)
        except TimeoutError:
            raise batch_timeout_error(self._timeout) from None
        return self._start(batch)

    def _start_next(self) -> None:
        """Start the device's part of the next batches that are ready; an error is raised in its turn."""
        try:
            while len(self._started) < self._engine.ahead:
                if self._started and isinstance(self._started[-1], Exception):
                    return  # after which there is nothing
                if (batch := self.queue.take_ready()) is None:
                    return
                self._started.append(self._start(batch))
        except Exception as error:  # noqa: BLE001 - raised in its turn
            self._started.append(error)

    def _start(self, batch: PreparedBatch) -> PreparedBatch:
        if batch.prepared is None or not self._engine.ahead:
            return batch
        return replace(batch, prepared=self._engine.start(batch.prepared))

    def _finish(self, batch: PreparedBatch) -> "tuple[BatchIndices, torch.Tensor, torch.Tensor]":
        self._policy.admit(batch.found)
        try:
            return batch.samples, *self._engine.finish(batch.prepared)
        except DamagedSamples as error:
            damaged = error.reasons
        batch = self._maker.replace(batch.samples, damaged, self._make_now)
        self._policy.admit(batch.found)
        return batch.samples, *batch.prepared

    def _make_now(self, work: BatchWork) -> "tuple[torch.Tensor, torch.Tensor]":
        return self._engine.finish(self._engine.start(self._engine.prepare(work)))


class BatchMaker:
    """Prepares batches, replacing damaged samples. Thread-safe."""

    def __init__(self, plan: BatchPlan, engine: Engine, policy: DamagePolicy) -> None:
        self._plan, self._engine, self._policy = plan, engine, policy

    def make(self, planned: tuple[BatchIndices, BatchWork]) -> PreparedBatch:
        """Prepare one batch."""
        samples, work = planned
        try:
            return PreparedBatch(samples=samples, prepared=self._engine.prepare(work), found={})
        except DamagedSamples as error:
            damaged = error.reasons
        return self.replace(samples, damaged, self._engine.prepare)

    def replace(
        self, samples: BatchIndices, damaged: dict[int, str], prepare: Callable[[BatchWork], Any]
    ) -> PreparedBatch:
        """Replace damaged samples (reasons by position) until ``prepare`` works for all of them.

        What was found comes with the batch, and counts when that is delivered.
        """
        found: dict[int, str] = {}
        while True:
            found |= {int(samples.indices[position]): reason for position, reason in damaged.items()}
            if not self._policy.may_replace(found):
                return PreparedBatch(samples=samples, prepared=None, found=found)
            samples = self._with_substitutes(samples, damaged)
            try:
                work = self._plan.work(samples.indices, samples.epoch)
                return PreparedBatch(samples=samples, prepared=prepare(work), found=found)
            except DamagedSamples as error:
                damaged = error.reasons

    def _with_substitutes(self, samples: BatchIndices, damaged: dict[int, str]) -> BatchIndices:
        """Replace each damaged sample by the next good one in the epoch's order, marked invalid."""
        indices, valid = samples.indices.copy(), samples.valid.copy()
        for position in damaged:
            indices[position] = self._substitute(samples, position)
            valid[position] = False
        return replace(samples, indices=indices, valid=valid)

    def _substitute(self, samples: BatchIndices, position: int) -> int:
        slices = self._plan.slices
        start = samples.number * slices.batch_size + slices.slice[position]
        for distance in range(1, slices.samples):
            candidate = int(samples.order[(start + distance) % slices.samples])
            if not self._policy.is_known(candidate):
                return candidate
        self._policy.check_set()
        raise PetsegError("every sample of the split is damaged; run petseg-shard verify")
