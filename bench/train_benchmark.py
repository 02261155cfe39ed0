"""``petseg-bench train``: how much of the network's speed the loader costs."""

import itertools
from typing import Any, cast

import msgspec

from bench.core.machine import RunClock, why_no_gpu
from bench.core.rounds import PartSeconds, refuse_empty, run_rounds
from bench.core.subject_process import ProcessSubject, TrainJob
from bench.core.workspace import data_info
from bench.peers.peer import split_bytes
from bench.results.records import Repeat, Results, Skipped, TrainLine
from bench.settings import TrainSettings, plain
from shards.format.dataset import ShardSet


class TrainSubject(ProcessSubject):
    """A network that trains, in three modes: the loader alone, compute-only, end-to-end."""

    job: TrainJob

    def __init__(self, job: TrainJob) -> None:
        super().__init__(f"{job.model} {job.precision}", job)
        self._others: dict[str, list[Repeat]] = {"loader": [], "compute": []}
        self._prepared: dict[str, Any] = {}
        self._peak_gpu_bytes: int | None = None

    def open(self) -> None:
        """Train until the speed no longer rises."""
        self._prepared = self.ask("prepare")

    def turn(self) -> Repeat:
        """Time each mode; return end-to-end training."""
        seconds = self.job.settings.seconds
        for mode, repeats in self._others.items():
            repeat = self.ask("turn", timed=True, mode=mode, seconds=seconds)
            repeats.append(msgspec.structs.replace(repeat, process=self.process))
        repeat = self.ask("turn", timed=True, mode="end-to-end", seconds=seconds)
        self._peak_gpu_bytes = self.ask("gpu_memory")
        return cast(Repeat, repeat)

    def line(self) -> TrainLine:
        found = dict(self._prepared)
        engine = found.pop("engine")
        name = f"{self.job.model} {found['precision']} {found['size']} px {found['device']} {engine}"
        return TrainLine(
            name=name, repeats=tuple(self.repeats), peak_memory_bytes=self.peak_memory_bytes, model=self.job.model,
            loader=tuple(self._others["loader"]), compute=tuple(self._others["compute"]),
            peak_gpu_bytes=self._peak_gpu_bytes, **found,
        )  # fmt: skip


def run_train_benchmark(settings: TrainSettings, *, parts: PartSeconds) -> Results:
    """Measure the loader alone, compute-only and end-to-end training, in turns, for each model and precision.

    Raises:
        UsageError: an option is wrong, or nothing could be measured.
        FormatError: no shard set, or damaged.
    """
    clock, skipped = RunClock(), list[Skipped]()
    shard_set = ShardSet.open(settings.shards)
    reader = shard_set.split(settings.split)
    jobs = [TrainJob(*which, settings) for which in itertools.product(settings.models, settings.precisions)]
    subjects = [TrainSubject(job) for job in jobs]
    measured = run_rounds(subjects, repeats=settings.repeats, seed=settings.seed, parts=parts, skipped=skipped)
    lines = tuple(subject.line() for subject in measured)
    refuse_empty(lines, skipped)
    if settings.device != "cuda" and (reason := why_no_gpu()):
        skipped += [Skipped(name=f"{model} on a GPU", reason=reason) for model in settings.models]
    data = data_info(settings.shards, shard_set, reader, {shard_set.manifest.storage: split_bytes(reader)})
    return Results(kind="train", environment=clock.finish(), data=data, settings=plain(settings), train=lines,
                   skipped=tuple(skipped), parts=parts.rounded())  # fmt: skip
