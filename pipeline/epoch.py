"""One epoch's run: batches are made ahead in a thread of their own, and handed out in order.

Nothing here decides which samples a batch holds; see :mod:`pipeline.order`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.damage import DamagedSamples, DamagePolicy
from pipeline.engine import Engine, Work
from pipeline.order import Indices, Plan
from pipeline.threads import ReadAhead
from shards.errors import PetsegError

if TYPE_CHECKING:
    import torch


BLOCK = 1024  # samples

# Batches that exist besides those made ahead: the one that the caller still holds while the next is handed over, that
# one, and the one that is begun before it is.
IN_HAND = 3


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Which samples a batch holds and which of them count."""

    number: int
    indices: Indices
    valid: npt.NDArray[np.bool_]


class Blocks:
    """Labels and work of batches, made for many batches at once: table rows and random numbers come cheaper by the
    thousand.
    """

    def __init__(self, plan: Plan, order: Indices, make_work: Callable[[Indices], Work]) -> None:
        self._plan = plan
        self._order = order
        self._make_work = make_work
        self._batches = max(1, BLOCK // max(1, len(plan.slice)))  # no places: more ranks than samples in a batch
        self._numbers = range(0)

    def get(self, number: int) -> tuple[Labels, Work]:
        """Return what one batch holds, and its work."""
        if number not in self._numbers:
            self._numbers = range(number, min(number + self._batches, self._plan.batches))
            parts = [self._plan.indices(self._order, each) for each in self._numbers]
            self._indices, self._valid = (np.concatenate(each) for each in zip(*parts, strict=True))
            self._work = self._make_work(self._indices)
        start = (number - self._numbers.start) * len(self._plan.slice)
        places = slice(start, start + len(self._plan.slice))
        # Copies, so that a batch that is kept does not keep the whole block.
        labels = Labels(number=number, indices=self._indices[places].copy(), valid=self._valid[places].copy())
        return labels, self._work.part(places)


@dataclass(frozen=True, kw_only=True)
class EpochRun:
    """What it takes to run an epoch, or the rest of one.

    Attributes:
        engine: makes tensors.
        plan: how samples fall into batches.
        order: the epoch's order, (N,).
        make_work: from sample indices (B,) to the engine's work; called in the reading thread.
        policy: what happens to damaged samples.
        prefetch: how many batches are made ahead.
        timeout: how long to wait for one, in seconds.
    """

    engine: Engine
    plan: Plan
    order: Indices
    make_work: Callable[[Indices], Work]
    policy: DamagePolicy
    prefetch: int
    timeout: float

    def batches(self, first: int) -> Generator[tuple[Labels, torch.Tensor, torch.Tensor]]:
        """Yield (labels, image, mask) of the batches from number ``first`` on.

        Closing the generator stops reading ahead, and gives the batch in the making a few seconds to end.

        Raises:
            SampleError: a sample is damaged and the policy says stop.
            PetsegError: a batch takes longer than the timeout.
        """
        numbers = range(first, self.plan.batches)
        blocks = Blocks(self.plan, self.order, self.make_work)
        ahead = ReadAhead(
            lambda number: self._prepare(number, blocks), numbers, depth=self.prefetch, name="petseg-read"
        )
        begun: tuple[Labels, Any] | None = None
        try:
            for number in numbers:
                labels, started = begun or self._begin(ahead)
                begun = None
                labels, image, mask = self._finish(labels, started)
                if number + 1 in numbers:
                    begun = self._begin(ahead)
                yield labels, image, mask
        finally:
            ahead.stop()
            if begun is not None:
                self._abandon(begun[1])

    def _begin(self, ahead: ReadAhead[tuple[Labels, Any]]) -> tuple[Labels, Any]:
        """Take the next prepared batch and start the device's part."""
        try:
            labels, prepared = ahead.take(self.timeout)
        except TimeoutError:
            raise PetsegError(
                f"no batch within {self.timeout:g} seconds: the disk or a worker does not answer; "
                "look at the storage, or give the loader a longer timeout"
            ) from None
        return labels, self.engine.start(prepared)

    def _abandon(self, started: Any) -> None:
        """Take a batch that was started and nobody wants, so that it is not taken for the next one."""
        with contextlib.suppress(DamagedSamples):
            self.engine.finish(started)

    def _prepare(self, number: int, blocks: Blocks) -> tuple[Labels, Any]:
        labels, work = blocks.get(number)
        try:
            return labels, self.engine.prepare(work)
        except DamagedSamples as error:
            labels = self._replace(labels, error)
        return self._retry(labels, self.engine.prepare)

    def _finish(self, labels: Labels, started: Any) -> tuple[Labels, torch.Tensor, torch.Tensor]:
        try:
            return labels, *self.engine.finish(started)
        except DamagedSamples as error:
            labels = self._replace(labels, error)
        labels, (image, mask) = self._retry(labels, self._at_once)
        return labels, image, mask

    def _at_once(self, work: Work) -> tuple[torch.Tensor, torch.Tensor]:
        return self.engine.finish(self.engine.start(self.engine.prepare(work)))

    def _retry(self, labels: Labels, step: Callable[[Work], Any]) -> tuple[Labels, Any]:
        """Do a step, replacing damaged samples, until it works or the policy says stop."""
        while True:
            try:
                return labels, step(self.make_work(labels.indices))
            except DamagedSamples as error:
                labels = self._replace(labels, error)

    def _replace(self, labels: Labels, error: DamagedSamples) -> Labels:
        """Put the next good sample of the epoch's order in the place of each damaged one, marked invalid."""
        self.policy.admit({int(labels.indices[place]): reason for place, reason in error.reasons.items()})
        indices, valid = labels.indices.copy(), labels.valid.copy()
        for place in error.reasons:
            indices[place] = self._substitute(labels.number, place)
            valid[place] = False
        return Labels(number=labels.number, indices=indices, valid=valid)

    def _substitute(self, number: int, place: int) -> int:
        position = number * self.plan.batch_size + self.plan.slice[place]
        for step in range(1, self.plan.samples):
            candidate = int(self.order[(position + step) % self.plan.samples])
            if candidate not in self.policy.damaged:
                return candidate
        raise PetsegError("every sample of the split is damaged; run petseg-shard verify")
