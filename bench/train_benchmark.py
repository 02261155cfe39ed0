"""``petseg-bench train``: how much of the network's speed the loader costs."""

import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

from msgspec.structs import replace

from bench.core.machine import why_no_gpu
from bench.core.rounds import Run, Subject
from bench.core.stopwatch import time_batches, warm_up
from bench.core.subject_process import SubjectProcess
from bench.core.workspace import data_info
from bench.peers.peer import split_bytes
from bench.results.records import Repeat, Results, Skipped, TrainLine
from bench.settings import TrainSettings
from petseg.host.openmp import configure_openmp
from petseg.runs.recipe import default_recipe
from shards.errors import UsageError, option
from shards.format.dataset import ShardSet
from shards.format.geometry import size_text

if TYPE_CHECKING:
    from pipeline import Batch

PREFETCH = 2
NEVER = 10**9  # total steps of a schedule that is not meant to end
MODES = ("loader", "compute", "end-to-end")


class TrainSubject(Subject):
    """A network that trains, in three modes: the loader alone, compute-only, end-to-end."""

    field = "train"
    process: SubjectProcess

    def __init__(self, model: str, precision: str, settings: TrainSettings) -> None:
        environment = dict(os.environ)
        configure_openmp(environment)  # as petseg-train does
        server = "bench.train_benchmark:TrainServer"
        process = SubjectProcess(server, environment=environment, model=model, precision=precision, settings=settings)
        super().__init__(f"{model} {precision}", process)
        self._modes, self._facts = {mode: list[Repeat]() for mode in MODES}, dict[str, Any]()

    def open(self) -> None:
        """Train until the speed no longer rises."""
        self.process.ask("prepare")

    def turn(self) -> Repeat:
        repeats, self._facts = self.process.ask("turn", timed=True)
        for mode, repeat in repeats.items():
            self._modes[mode].append(replace(repeat, process=self.number))
        return self._modes["end-to-end"][-1]

    def line(self) -> TrainLine:
        return TrainLine(repeats=tuple(self.repeats), loader=tuple(self._modes["loader"]),
                         compute=tuple(self._modes["compute"]), peak_memory_bytes=self.process.peak_memory_bytes,
                         **self._facts)  # fmt: skip


class TrainServer:
    """A learner, its loader, and the three modes."""

    def __init__(self, model: str, precision: str, settings: TrainSettings) -> None:
        import torch

        from petseg.host.device import choose_device, choose_placement
        from petseg.host.distributed import World
        from petseg.training.cuda_graph import chooses_graph
        from petseg.training.step import TrainStep
        from pipeline import Loader

        recipe, shard_set = default_recipe(cast(Any, model)), ShardSet.open(settings.shards)
        self.recipe = recipe = replace(
            recipe, model=replace(recipe.model, classes=len(shard_set.manifest.labels)), seed=settings.seed,
            size=settings.size or recipe.size, fit=settings.fit or recipe.fit,
            batch_size=settings.batch_size or recipe.batch_size, precision=cast(Any, precision),
        )  # fmt: skip
        recipe.check()
        device = choose_device(settings.device)
        try:
            self.placement = choose_placement(device, cast(Any, precision))
        except UsageError as error:  # which names petseg-train's option
            raise UsageError(str(error).replace(option("precision"), option("precisions"))) from None
        graph = chooses_graph(None, self.placement, World(), compiled=False)
        self.trainer = TrainStep(recipe, total_steps=NEVER, placement=self.placement, cuda_graph=graph)
        self.loader = Loader(
            shard_set, split=settings.split, batch_size=recipe.batch_size, size=recipe.size, fit=recipe.fit,
            device=self.placement.device, seed=settings.seed, mask="index", shuffle=True, prefetch=PREFETCH,
            augment=None if recipe.augment == "none" else recipe.augment, engine=cast(Any, settings.engine),
        )  # fmt: skip
        self._torch = torch
        self._batches, self._step, self._seconds = self._endless(), 0, settings.seconds
        kept = next(self._batches)
        copied = {name: getattr(kept, name).clone() for name in ("image", "mask", "index", "valid")}
        self._kept = dataclasses.replace(kept, **copied)

    def prepare(self) -> None:
        """Train end-to-end until the speed no longer rises."""
        warm_up(lambda: self._run("end-to-end", 0.0).rate, most_seconds=4 * self._seconds)

    def turn(self) -> tuple[dict[str, Repeat], dict[str, Any]]:
        """Run each mode for the wanted time and at least one step, after some batches that are not timed.

        Return the repeats by mode, and what else the line says.
        """
        for _ in range(PREFETCH + 1):
            next(self._batches)
        found = {"loader": self._run("loader", self._seconds)}
        for mode in ("compute", "end-to-end"):
            self._run(mode, 0.0)
            found[mode] = self._run(mode, self._seconds)
        placement, device, size = self.placement, str(self.placement.device), size_text(self.recipe.size)
        model = self.recipe.model.name
        return found, {
            "name": f"{model} {placement.precision} {size} px {device} {self.loader.engine}", "model": model,
            "precision": placement.precision, "size": size, "batch_size": self.recipe.batch_size, "device": device,
            "peak_gpu_bytes": self._torch.cuda.max_memory_allocated(device) if placement.on_gpu else None,
        }  # fmt: skip

    def close(self) -> None:
        self.loader.close()

    def _run(self, mode: str, seconds: float) -> Repeat:
        """Run a mode. No step's results are read: the trainer reads them in blocks, much later."""
        stored = split_bytes(self.loader.split) / len(self.loader.split)  # what crosses to a GPU is what is stored

        def batches() -> "Iterator[Batch]":
            start = time.perf_counter()
            while True:
                yield self._kept if mode == "compute" else next(self._batches)
                if time.perf_counter() - start >= seconds:
                    return

        def use(batch: "Batch") -> int:
            valid = self.loader.valid_in_batch(batch.number)
            if mode != "loader":
                self._step += 1
                self.trainer.run(batch, global_valid=valid, step=self._step)
            return valid

        return time_batches(batches(), use, cuda=self.placement.on_gpu,
                            moved=lambda images: 0.0 if mode == "compute" else images * stored)  # fmt: skip

    def _endless(self) -> "Iterator[Batch]":
        from pipeline.io.damage import without_replacement

        with without_replacement():
            while True:
                yield from self.loader


def run_train_benchmark(settings: TrainSettings, *, report: Callable[[str], None] = lambda _: None) -> Results:
    """Measure the loader alone, compute-only and end-to-end training, in turns, for each model and precision.

    A :class:`UsageError` says why nothing could be measured. ``report`` is told what is done now.
    """
    run, reader = Run(settings, report), ShardSet.open(settings.shards).split(settings.split)
    subjects = [TrainSubject(*which, settings) for which in itertools.product(settings.models, settings.precisions)]
    measured = run.rounds(subjects, seed=settings.seed)
    if settings.device != "cuda" and (reason := why_no_gpu()):
        run.skipped += [Skipped(name=f"{model} on a GPU", reason=reason) for model in settings.models]
    data = data_info(settings.shards, reader, {reader.manifest.storage: split_bytes(reader)})
    return run.results(data, measured)
