"""What a process that trains does on command: the loader alone, compute-only (training on one batch), end-to-end."""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any, cast

import torch
from msgspec.structs import replace

from bench.core.stopwatch import time_batches, warm_up
from bench.core.subject_process import TrainJob
from bench.peers.peer import split_bytes
from bench.results.records import Repeat
from petseg.host.device import choose_device, choose_placement
from petseg.host.distributed import World
from petseg.runs.recipe import default_recipe
from petseg.training.cuda_graph import chooses_graph
from petseg.training.step import TrainStep
from pipeline import Batch, Loader
from shards.format.dataset import ShardSet
from shards.format.geometry import size_text

PREFETCH = 2
NEVER = 10**9  # total steps of a schedule that is not meant to end


class TrainServer:
    """A learner, its loader, and the three modes."""

    def __init__(self, job: TrainJob) -> None:
        settings, recipe = job.settings, default_recipe(cast(Any, job.model))
        shard_set = ShardSet.open(settings.shards)
        self.recipe = recipe = replace(
            recipe, model=replace(recipe.model, classes=len(shard_set.manifest.labels)), seed=settings.seed,
            size=settings.size or recipe.size, fit=settings.fit or recipe.fit,
            batch_size=settings.batch_size or recipe.batch_size, precision=cast(Any, job.precision),
        )  # fmt: skip
        recipe.check()
        self.placement = choose_placement(choose_device(settings.device), cast(Any, job.precision))
        graph = chooses_graph(None, self.placement, World(), compiled=False)
        self.trainer = TrainStep(recipe, total_steps=NEVER, placement=self.placement, cuda_graph=graph)
        self.loader = Loader(
            shard_set, split=settings.split, batch_size=recipe.batch_size, size=recipe.size, fit=recipe.fit,
            device=self.placement.device, seed=settings.seed, mask="index", shuffle=True, prefetch=PREFETCH,
            augment=None if recipe.augment == "none" else recipe.augment, engine=cast(Any, settings.engine),
        )  # fmt: skip
        self._batches, self._step, self._patience = self._endless(), 0, 4 * settings.seconds
        kept = next(self._batches)
        copied = {name: getattr(kept, name).clone() for name in ("image", "mask", "index", "valid")}
        self._kept = dataclasses.replace(kept, **copied)

    def prepare(self) -> dict[str, Any]:
        """Train end-to-end until the speed no longer rises."""
        warm_up(lambda: self._run("end-to-end", 0.0).rate, most_seconds=self._patience)
        return {"precision": self.placement.precision, "size": size_text(self.recipe.size),
                "batch_size": self.recipe.batch_size, "device": str(self.placement.device),
                "engine": self.loader.engine}  # fmt: skip

    def turn(self, mode: str, seconds: float) -> Repeat:
        """Run one mode, ``loader``, ``compute`` or ``end-to-end``, for at least ``seconds`` and one step; first some
        batches that are not timed.
        """
        for _ in range(PREFETCH + 1 if mode == "loader" else 0):
            next(self._batches)
        if mode != "loader":
            self._run(mode, 0.0)
        return self._run(mode, seconds)

    def gpu_memory(self) -> int | None:
        """Return the most that was allocated on the device; None on the CPU."""
        return torch.cuda.max_memory_allocated(self.placement.device) if self.placement.on_gpu else None

    def close(self) -> None:
        self.loader.close()

    def _run(self, mode: str, seconds: float) -> Repeat:
        """Run a mode. No step's results are read: the trainer reads them in blocks, much later."""
        stored = split_bytes(self.loader.split) / len(self.loader.split)  # what crosses to a GPU is what is stored

        def batches() -> Iterator[Batch]:
            start = time.perf_counter()
            while True:
                yield self._kept if mode == "compute" else next(self._batches)
                if time.perf_counter() - start >= seconds:
                    return

        def use(batch: Batch) -> int:
            valid = self.loader.valid_in_batch(batch.number)
            if mode != "loader":
                self._step += 1
                self.trainer.run(batch, global_valid=valid, step=self._step)
            return valid

        return time_batches(batches(), use, cuda=self.placement.on_gpu, moved=0.0 if mode == "compute" else stored)

    def _endless(self) -> Iterator[Batch]:
        while True:
            yield from self.loader
