"""The process that trains: loader alone, training on one batch kept in memory, training for real.

It answers the driver as :mod:`bench.server` does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import msgspec
import torch

from bench.statistics import percentile
from bench.train_job import TrainJob
from bench.warmup import HALF, MAX_SECONDS, is_steady
from petseg.host.device import Placement, choose_device, choose_placement
from petseg.runs.recipe import default_recipe
from petseg.training.step import StepResult, TrainStep
from pipeline import Batch, Loader

PREFETCH = 2
NEVER = 10**9  # total steps of a schedule that is not meant to end


@dataclass
class Turn:
    """What one timed turn found. ``device_seconds`` is the time between CUDA events around it; None on the CPU."""

    pictures: int
    seconds: float
    waited: float
    steps: list[float]
    device_seconds: float | None = None
    moved_bytes: int = 0

    def plain(self) -> dict[str, Any]:
        """Return the turn as plain values."""
        return {
            "rate": self.pictures / self.seconds,
            "gpu": None
            if self.device_seconds is None
            else {
                "host_wait_seconds": self.waited,
                "device_seconds": self.device_seconds,
                "moved_bytes": self.moved_bytes,
            },
            "wait_share": self.waited / self.seconds,
            "steps": len(self.steps),
            "step_ms": [1e3 * percentile(self.steps, part) for part in (0.5, 0.95)],
        }


class TrainServer:
    """A learner, its loader, and the three modes."""

    def __init__(self, job: TrainJob) -> None:
        self.job = job
        recipe = default_recipe(cast(Any, job.model))
        self.recipe = msgspec.structs.replace(
            recipe,
            size=job.size or recipe.size,
            batch_size=job.batch_size or recipe.batch_size,
            precision=cast(Any, job.precision),
            seed=job.seed,
        )
        self.recipe.check()
        self.placement: Placement = choose_placement(choose_device(job.device), cast(Any, job.precision))
        self.learner = TrainStep(self.recipe, total_steps=NEVER, placement=self.placement)
        self.loader = Loader(
            job.shards,
            split=job.split,
            batch_size=self.recipe.batch_size,
            size=self.recipe.size,
            device=self.placement.device,
            seed=job.seed,
            mask="index",
            augment=None if self.recipe.augment == "none" else self.recipe.augment,
            shuffle=True,
            prefetch=PREFETCH,
            engine=cast(Any, job.engine),
        )
        self._batches = self._endless()
        self._kept = self._whole_batch()
        self._step = 0

    def prepare(self) -> dict[str, Any]:
        """Train for real until the speed no longer rises."""
        started = time.perf_counter()
        rates: list[float] = []
        while not is_steady(rates) and time.perf_counter() - started < MAX_SECONDS:
            rates.append(self._train(self._next, seconds=0.0, lead_in=0).plain()["rate"])
        return {
            "steady": len(rates) >= 2 * HALF and is_steady(rates),
            "seconds": time.perf_counter() - started,
            "size": self.recipe.size,
            "batch_size": self.recipe.batch_size,
            "precision": self.placement.precision,
            "device": str(self.placement.device),
            "engine": self.loader.engine,
        }

    def loader_turn(self, seconds: float) -> dict[str, Any]:
        """Take batches and do nothing with them."""
        for _ in range(PREFETCH + 1):
            self._next()
        self._synchronise()
        pictures, start, spent = 0, time.perf_counter(), 0.0
        while spent < seconds:
            pictures += int(self._next()[1])
            spent = time.perf_counter() - start
        self._synchronise()
        return Turn(pictures, time.perf_counter() - start, spent, [spent]).plain()

    def memory_turn(self, seconds: float) -> dict[str, Any]:
        """Train on one batch that is kept where the network is."""
        return self._train(lambda: self._kept, seconds=seconds, lead_in=1).plain()

    def real_turn(self, seconds: float) -> dict[str, Any]:
        """Train from the loader."""
        turn = self._train(self._next, seconds=seconds, lead_in=1)
        table = self.loader.split.table  # what crosses to a GPU is what is stored
        stored = int(table["image_length"].sum()) + int(table["trimap_length"].sum())
        turn.moved_bytes = stored * turn.pictures // len(table) if self.placement.on_gpu else 0
        return turn.plain()

    def gpu_memory(self) -> dict[str, Any]:
        """Return the most that was allocated on the device; None on the CPU."""
        if not self.placement.on_gpu:
            return {"bytes": None}
        return {"bytes": torch.cuda.max_memory_allocated(self.placement.device)}

    def close(self) -> None:
        """Stop the loader."""
        self.loader.close()

    def _train(self, take: Callable[[], tuple[Batch, int]], *, seconds: float, lead_in: int) -> Turn:
        """Train for at least ``seconds`` and one step; the results of a step are looked at one step later, as the
        trainer does on a GPU, and at once on the CPU.
        """
        for _ in range(lead_in):
            self._one(*take())
        self._synchronise()
        pending: StepResult | None = None
        turn = Turn(0, 0.0, 0.0, [])
        event_class: Any = torch.cuda.Event
        events = [event_class(enable_timing=True) for _ in range(2)] if self.placement.on_gpu else []
        for event in events[:1]:
            event.record()
        start = last = time.perf_counter()
        while not turn.steps or last - start < seconds:
            batch, valid = take()
            turn.waited += time.perf_counter() - last
            result = self._one(batch, valid)
            look = pending if self.placement.on_gpu else result
            if look is not None:
                float(look.loss)
            pending = result
            now = time.perf_counter()
            turn.steps.append(now - last)
            turn.pictures += valid
            last = now
        for event in events[1:]:
            event.record()
        self._synchronise()
        turn.seconds = time.perf_counter() - start
        turn.device_seconds = events[0].elapsed_time(events[1]) / 1e3 if events else None
        return turn

    def _one(self, batch: Batch, valid: int) -> StepResult:
        self._step += 1
        return self.learner.run(batch, global_valid=valid, step=self._step)

    def _next(self) -> tuple[Batch, int]:
        batch = next(self._batches)
        return batch, self.loader.valid_in_batch(batch.number)

    def _whole_batch(self) -> tuple[Batch, int]:
        """Return a copy of the first batch, which has no padding unless the set is smaller than a batch."""
        batch, valid = self._next()
        return own_copy(batch), valid

    def _endless(self) -> Iterator[Batch]:
        while True:
            yield from self.loader

    def _synchronise(self) -> None:
        if self.placement.on_gpu:
            torch.cuda.synchronize(self.placement.device)


def own_copy(batch: Batch) -> Batch:
    """Return the batch with tensors of its own."""
    import dataclasses

    tensors = {name: getattr(batch, name).clone() for name in ("image", "mask", "index", "valid")}
    return dataclasses.replace(batch, **tensors)
