"""``petseg-bench train``: how much of the network's speed the loader costs."""

import itertools
from typing import Any, cast

import msgspec

from bench.core.loader_subject import LoaderSubject, References
from bench.core.machine import RunClock, why_no_gpu
from bench.core.rounds import PartSeconds, refuse_empty, run_rounds
from bench.core.subject_process import ProcessSubject, TrainJob
from bench.core.workspace import data_info, open_workspace
from bench.loader_benchmark import plan_pass
from bench.peers.base import split_bytes
from bench.results.records import DataInfo, LoaderWork, Repeat, Results, Skipped, TrainLine
from bench.settings import TrainSettings
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
        """Return what was found."""
        found = dict(self._prepared)
        engine = found.pop("engine")
        name = f"{self.job.model} {found['precision']} {found['size']} px {found['device']} {engine}"
        return TrainLine(
            name=name, repeats=tuple(self.repeats), peak_memory_bytes=self.peak_memory_bytes, model=self.job.model,
            loader=tuple(self._others["loader"]), compute=tuple(self._others["compute"]),
            peak_gpu_bytes=self._peak_gpu_bytes, **found,
        )  # fmt: skip


class ConsumerSubject(LoaderSubject):
    """A loader, alone and with a consumer of ``consumer_rate`` images/s in a network's place."""

    def __init__(self, *planned: Any, consumer_rate: float, **how: Any) -> None:
        super().__init__(*planned, **how)
        self._consumer_rate, self._alone = consumer_rate, list[Repeat]()

    def turn(self) -> Repeat:
        """Time the loader alone, then with the consumer."""
        self._alone.append(msgspec.structs.replace(super().turn(), process=self.process))
        epochs = max(1, round(self.seconds * min(self._consumer_rate, self.rate) / self.job.samples))
        return cast(Repeat, self.ask("consume", timed=True, epochs=epochs, consumer_rate=self._consumer_rate))

    def consumer_line(self) -> TrainLine:
        """Return what was found."""
        job = self.job
        return TrainLine(
            name=self.name, repeats=tuple(self.repeats), peak_memory_bytes=self.peak_memory_bytes, model="consumer",
            device=job.device, size=job.size, batch_size=job.batch_size, loader=tuple(self._alone),
            compute=(Repeat(images=1, seconds=1 / self._consumer_rate),),
        )  # fmt: skip


def run_train_benchmark(settings: TrainSettings, *, parts: PartSeconds) -> Results:
    """Measure the loader alone, compute-only and end-to-end training, in turns, for each model and precision; or with a
    consumer rate, a consumer behind each loader.

    Raises:
        UsageError: an option is wrong, or nothing could be measured.
        FormatError: no shard set, or damaged.
    """
    clock, skipped = RunClock(), list[Skipped]()
    measure = _train if settings.consumer_rate is None else _consume
    data, lines = measure(settings, parts, skipped)
    refuse_empty(lines, skipped)
    plain = msgspec.to_builtins(settings, enc_hook=str)
    return Results(kind="train", environment=clock.finish(), data=data, settings=plain, train=tuple(lines),
                   skipped=tuple(skipped), parts=parts.rounded())  # fmt: skip


def _train(settings: TrainSettings, parts: PartSeconds, skipped: list[Skipped]) -> tuple[DataInfo, list[TrainLine]]:
    shard_set = ShardSet.open(settings.shards)
    reader = shard_set.split(settings.split)
    jobs = [TrainJob(*which, settings) for which in itertools.product(settings.models, settings.precisions)]
    subjects = [TrainSubject(job) for job in jobs]
    measured = run_rounds(subjects, repeats=settings.repeats, seed=settings.seed, parts=parts, skipped=skipped)
    if settings.device != "cuda" and (reason := why_no_gpu()):
        skipped += [Skipped(name=f"{model} on a GPU", reason=reason) for model in settings.models]
    data = data_info(settings.shards, shard_set, reader, {shard_set.manifest.storage: split_bytes(reader)})
    return data, [subject.line() for subject in measured]


def _consume(settings: TrainSettings, parts: PartSeconds, skipped: list[Skipped]) -> tuple[DataInfo, list[TrainLine]]:
    loaders = settings.for_consumer()
    with open_workspace(loaders, parts) as workspace, References(workspace.folder) as references:
        subjects = [
            ConsumerSubject(*planned, consumer_rate=settings.consumer_rate or 0.0, references=references,
                            seconds=settings.seconds)
            for planned in plan_pass(loaders, workspace, LoaderWork(peer="", storage=""), skipped)
        ]  # fmt: skip
        measured = run_rounds(subjects, repeats=settings.repeats, seed=settings.seed, parts=parts, skipped=skipped)
    return workspace.data, sorted((subject.consumer_line() for subject in measured), key=lambda line: -line.rate)
