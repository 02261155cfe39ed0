"""Batches are made ahead by threads, and handed out in order, over the edges of epochs.

Nothing here decides which samples a batch holds; see :mod:`pipeline.runtime.batch_plan`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.damage import DamagedSamples, DamagePolicy
from pipeline.engine import Engine, Work
from pipeline.runtime.batch_plan import Labels, Schedule, Step
from pipeline.runtime.order_ahead import OrderAhead, no_batch_within
from pipeline.runtime.threads import ReadAhead
from shards.errors import PetsegError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Made:
    """A batch that is prepared.

    Attributes:
        step: what it was made from, with the samples that are in it now.
        prepared: by the engine; None where there are more damaged samples than may be replaced.
        found: by sample index: what is wrong with those that were replaced.
    """

    step: Step
    prepared: Any
    found: dict[int, str]


class Stream:
    """The batches from one on, in order, epoch after epoch.

    Args:
        schedule: what they hold.
        engine: makes tensors.
        policy: what happens to damaged samples.
        prefetch: how many batches are made ahead.
        timeout: how long to wait for one, in seconds.
        epoch: of the first batch.
        first: its number in that epoch.
        endless: whether to go on with the next epoch; else the stream ends with this one.
    """

    def __init__(
        self,
        schedule: Schedule,
        engine: Engine,
        policy: DamagePolicy,
        *,
        prefetch: int,
        timeout: float,
        epoch: int,
        first: int,
        endless: bool,
    ) -> None:
        self._schedule, self._engine, self._policy, self._timeout = schedule, engine, policy, timeout
        self._epoch, self._number, self._endless = epoch, first, endless
        self._begun: Made | Exception | None = None
        maker = Maker(schedule, engine, policy)
        steps = schedule.steps(epoch, first, endless=endless)
        depth = prefetch + (0 if engine.has_device_part else 1)
        self.ahead: ReadAhead[Step, Made] | OrderAhead[Step, Made]
        if engine.makers:
            self.ahead = ReadAhead(maker.make, steps, depth=depth, threads=engine.makers, name="petseg-read")
        else:
            self.ahead = OrderAhead(maker.make, steps, depth=depth)
        self._maker = maker

    def stands_at(self, epoch: int, number: int) -> bool:
        """Whether the next batch is this one."""
        if self._number == self._schedule.plan.batches:
            return False  # it has ended
        return self._number == number and (self._epoch == epoch or self._schedule.alike)

    def take(self) -> tuple[Labels, torch.Tensor, torch.Tensor]:
        """Return labels, image and mask of the next batch.

        Once this has raised, the stream is of no use any more.

        Raises:
            SampleError: a sample is damaged and the policy says stop.
            PetsegError: a batch takes longer than the timeout.
        """
        begun, self._begun = self._begun, None
        made = begun or self._next()
        if isinstance(made, Exception):
            raise made
        labels, image, mask = self._finish(made)
        if self._engine.has_device_part:
            self._begin()
        self._number += 1
        if self._number == self._schedule.plan.batches and self._endless:
            self._epoch, self._number = self._epoch + 1, 0
        return labels, image, mask

    def stop(self) -> None:
        """Make nothing more, and drop what is made; gives batches in the making a few seconds to end."""
        self.ahead.stop()
        self._policy.forget()
        begun, self._begun = self._begun, None
        if isinstance(begun, Made) and begun.prepared is not None:  # so that it is not taken for the next one
            with contextlib.suppress(DamagedSamples):
                self._engine.finish(begun.prepared)

    def _next(self) -> Made:
        try:
            made = self.ahead.take(self._timeout)
        except TimeoutError:
            raise no_batch_within(self._timeout) from None
        return self._started(made)

    def _begin(self) -> None:
        """Start the device's part of the batch after this one if that is ready; what fails is told in its turn."""
        try:
            made = self.ahead.take_ready()
            self._begun = None if made is None else self._started(made)
        except Exception as error:  # noqa: BLE001 - raised in its turn
            self._begun = error

    def _started(self, made: Made) -> Made:
        if made.prepared is None:
            return made
        return Made(step=made.step, prepared=self._engine.start(made.prepared), found=made.found)

    def _finish(self, made: Made) -> tuple[Labels, torch.Tensor, torch.Tensor]:
        self._policy.admit(made.found)
        try:
            return made.step.labels, *self._engine.finish(made.prepared)
        except DamagedSamples as error:
            damaged = error.reasons
        made = self._maker.replace(made.step, damaged, self._at_once)
        self._policy.admit(made.found)
        return made.step.labels, *made.prepared

    def _at_once(self, work: Work) -> tuple[torch.Tensor, torch.Tensor]:
        return self._engine.finish(self._engine.start(self._engine.prepare(work)))


class Maker:
    """Prepares batches, replacing damaged samples; several threads may use it at once."""

    def __init__(self, schedule: Schedule, engine: Engine, policy: DamagePolicy) -> None:
        self._schedule, self._engine, self._policy = schedule, engine, policy

    def make(self, step: Step) -> Made:
        """Prepare one batch.

        Raises:
            SampleError: a sample is damaged and the policy is to stop.
        """
        try:
            return Made(step=step, prepared=self._engine.prepare(step.work), found={})
        except DamagedSamples as error:
            damaged = error.reasons
        return self.replace(step, damaged, self._engine.prepare)

    def replace(self, step: Step, damaged: dict[int, str], again: Callable[[Work], Any]) -> Made:
        """Put others in the place of damaged samples (reasons by place) until ``again`` works for all of them.

        What was found comes with the batch, and counts when that is delivered.
        """
        found: dict[int, str] = {}
        while True:
            found |= {int(step.labels.indices[place]): reason for place, reason in damaged.items()}
            if not self._policy.may_replace(found):
                return Made(step=step, prepared=None, found=found)
            step = self._with_others(step, damaged)
            try:
                work = self._schedule.work(step.labels.indices, step.labels.epoch)
                return Made(step=step, prepared=again(work), found=found)
            except DamagedSamples as error:
                damaged = error.reasons

    def _with_others(self, step: Step, damaged: dict[int, str]) -> Step:
        """Put the next good sample of the epoch's order in the place of each damaged one, marked invalid."""
        labels = step.labels
        indices, valid = labels.indices.copy(), labels.valid.copy()
        for place in damaged:
            indices[place] = self._substitute(step, place)
            valid[place] = False
        labels = Labels(epoch=labels.epoch, number=labels.number, indices=indices, valid=valid)
        return Step(labels=labels, work=step.work, order=step.order)

    def _substitute(self, step: Step, place: int) -> int:
        plan = self._schedule.plan
        position = step.labels.number * plan.batch_size + plan.slice[place]
        for distance in range(1, plan.samples):
            candidate = int(step.order[(position + distance) % plan.samples])
            if not self._policy.is_known(candidate):
                return candidate
        raise PetsegError("every sample of the split is damaged; run petseg-shard verify")
