"""What a process that trains does on command: the loader alone, compute-only (training on one batch), end-to-end."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import msgspec
import torch

from bench.core.resources import cpu_seconds
from bench.core.stopwatch import warm_up
from bench.core.subject_process import TrainJob
from bench.results.records import GpuCost, Repeat
from bench.results.statistics import percentile
from petseg.host.device import choose_device, choose_placement
from petseg.runs.recipe import default_recipe
from petseg.training.step import Learner, StepResult
from pipeline import Batch, Loader

PREFETCH = 2
NEVER = 10**9  # total steps of a schedule that is not meant to end


class TrainServer:
    """A learner, its loader, and the three modes."""

    def __init__(self, job: TrainJob) -> None:
        recipe = default_recipe(cast(Any, job.model))
        self.recipe = msgspec.structs.replace(
            recipe,
            size=job.size or recipe.size,
            batch_size=job.batch_size or recipe.batch_size,
            precision=cast(Any, job.precision),
            seed=job.seed,
        )
        self.recipe.check()
        self.placement = choose_placement(choose_device(job.device), cast(Any, job.precision))
        self.learner = Learner(self.recipe, total_steps=NEVER, placement=self.placement)
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
        batch, valid = self._next()
        self._kept = own_copy(batch), valid  # has no padding unless the set is smaller than a batch
        self._step = 0

    def prepare(self) -> dict[str, Any]:
        """Train end-to-end until the speed no longer rises."""
        warm = warm_up(lambda: self._run(self._next, self._train, seconds=0.0).rate)
        recipe, placement = self.recipe, self.placement
        return {"steady": warm["steady"], "size": recipe.size, "batch_size": recipe.batch_size,
                "precision": placement.precision, "device": str(placement.device), "engine": self.loader.engine}  # fmt: skip

    def turn(self, mode: str, seconds: float) -> Repeat:
        """Run one mode, ``loader``, ``compute`` or ``end-to-end``, for at least ``seconds`` and one step."""
        if mode == "loader":
            for _ in range(PREFETCH + 1):
                self._next()
            return self._run(self._next, lambda _, __: None, seconds=seconds)
        take = self._next if mode == "end-to-end" else lambda: self._kept
        self._train(*take())
        repeat = self._run(take, self._train, seconds=seconds)
        if mode == "end-to-end" and repeat.gpu:
            table = self.loader.split.table  # what crosses to a GPU is what is stored
            stored = int(table["image_length"].sum()) + int(table["trimap_length"].sum())
            cost = msgspec.structs.replace(repeat.gpu, moved_bytes=stored * repeat.images // len(table))
            repeat = msgspec.structs.replace(repeat, gpu=cost)
        return repeat

    def gpu_memory(self) -> int | None:
        """Return the most that was allocated on the device; None on the CPU."""
        return torch.cuda.max_memory_allocated(self.placement.device) if self.placement.on_gpu else None

    def close(self) -> None:
        """Stop the loader."""
        self.loader.close()

    def _run(
        self, take: Callable[[], tuple[Batch, int]], work: Callable[[Batch, int], StepResult | None], *, seconds: float
    ) -> Repeat:
        """Take batches and work on each. The loss of a step is read one step later on a GPU, as the trainer does, and
        at once on the CPU.
        """
        on_gpu = self.placement.on_gpu
        self._synchronise()
        event_class: Any = torch.cuda.Event
        events = [event_class(enable_timing=True) for _ in range(2)] if on_gpu else []
        for event in events[:1]:
            event.record()
        pending: StepResult | None = None
        steps, images, waited, cpu = list[float](), 0, 0.0, cpu_seconds(os.getpid())
        start = last = time.perf_counter()
        while not steps or last - start < seconds:
            batch, valid = take()
            waited += time.perf_counter() - last
            result = work(batch, valid)
            read = pending if on_gpu else result
            if read is not None:
                float(read.loss)
            pending = result
            now = time.perf_counter()
            steps.append(now - last)
            images += valid
            last = now
        for event in events[1:]:
            event.record()
        self._synchronise()
        gpu = None
        if events:
            device_seconds = events[0].elapsed_time(events[1]) / 1e3
            gpu = GpuCost(host_wait_seconds=waited, device_seconds=device_seconds, moved_bytes=0)
        return Repeat(
            images=images,
            seconds=time.perf_counter() - start,
            cpu_seconds=cpu_seconds(os.getpid()) - cpu,
            batch_ms=(1e3 * percentile(steps, 0.5), 1e3 * percentile(steps, 0.95), 1e3 * max(steps)),
            wait_seconds=waited,
            gpu=gpu,
        )

    def _train(self, batch: Batch, valid: int) -> StepResult:
        self._step += 1
        return self.learner.step(batch, global_valid=valid, step=self._step)

    def _next(self) -> tuple[Batch, int]:
        batch = next(self._batches)
        return batch, self.loader.valid_in_batch(batch.number)

    def _endless(self) -> Iterator[Batch]:
        while True:
            yield from self.loader

    def _synchronise(self) -> None:
        if self.placement.on_gpu:
            torch.cuda.synchronize(self.placement.device)


def own_copy(batch: Batch) -> Batch:
    """Return the batch with tensors of its own."""
    tensors = {name: getattr(batch, name).clone() for name in ("image", "mask", "index", "valid")}
    return dataclasses.replace(batch, **tensors)
