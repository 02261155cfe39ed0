"""``petseg-bench train``: how much of the network's speed the loader costs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec

from bench.core.loader_subject import LoaderSubject, ProcessSubject
from bench.core.machine import RunClock, why_no_gpu
from bench.core.rounds import PartSeconds, run_rounds
from bench.core.subject_process import TrainJob
from bench.core.workspace import data_info, split_bytes
from bench.loader_benchmark import loader_workspace
from bench.loader_plan import LoaderSettings, Pass, plan_pass
from bench.results.records import DataInfo, Repeat, Results, Skipped, TrainLine
from shards.errors import UsageError
from shards.format.dataset import ShardSet


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """The options of ``petseg-bench train``; see its help.

    Raises:
        UsageError: an option cannot be.
    """

    shards: Path
    models: tuple[str, ...] = ("unet", "tutorial")
    precisions: tuple[str, ...] = ("auto",)
    split: str = "train"
    size: int = 0
    batch_size: int = 0
    device: str = "auto"
    engine: str = "auto"
    repeats: int = 5
    seconds: float = 3.0
    seed: int = 0

    def __post_init__(self) -> None:
        for model in self.models:
            if model not in ("unet", "tutorial"):
                raise UsageError(f"--models: {model!r} is not known; there are: unet, tutorial")


class TrainSubject(ProcessSubject):
    """A network that trains, in three modes: the loader alone, compute-only, end-to-end."""

    job: TrainJob

    def __init__(self, job: TrainJob, seconds: float) -> None:
        super().__init__(f"{job.model} {job.precision}", job)
        self.seconds = seconds
        self.others: dict[str, list[Repeat]] = {"loader": [], "compute": []}
        self.prepared: dict[str, Any] = {}
        self.peak_gpu_bytes: int | None = None

    def open(self) -> None:
        """Train until the speed no longer rises."""
        self.prepared = self.ask("prepare")

    def turn(self) -> Repeat:
        """Time each mode; return end-to-end training."""
        for mode, repeats in self.others.items():
            repeat = self.ask("turn", timed=True, mode=mode, seconds=self.seconds)
            repeats.append(msgspec.structs.replace(repeat, process=self.process))
        found = self.ask("turn", timed=True, mode="end-to-end", seconds=self.seconds)
        self.peak_gpu_bytes = self.ask("gpu_memory")
        return cast(Repeat, found)

    def line(self) -> TrainLine:
        """Return what was found."""
        prepared, job = self.prepared, self.job
        words = (job.model, prepared["precision"], f"{prepared['size']} px", prepared["device"], prepared["engine"])
        return TrainLine(
            name=" ".join(words),
            repeats=tuple(self.repeats),
            peak_memory_bytes=self.peak_memory_bytes,
            model=job.model,
            precision=prepared["precision"],
            device=prepared["device"],
            size=prepared["size"],
            batch_size=prepared["batch_size"],
            loader=tuple(self.others["loader"]),
            compute=tuple(self.others["compute"]),
            peak_gpu_bytes=self.peak_gpu_bytes,
        )


def run_train_benchmark(settings: TrainSettings, *, parts: PartSeconds) -> Results:
    """Measure the loader alone, compute-only and end-to-end training, in turns, for each model and precision.

    Raises:
        UsageError: an option is wrong, or nothing could be measured.
        FormatError: no shard set, or damaged.
    """
    clock, skipped, shard_set = RunClock(), list[Skipped](), ShardSet.open(settings.shards)
    reader = shard_set.split(settings.split)
    common = {
        name: getattr(settings, name) for name in ("device", "size", "batch_size", "split", "engine", "seed")
    }  # fmt: skip
    subjects = [
        TrainSubject(
            TrainJob(model=model, precision=precision, shards=str(settings.shards), **common), settings.seconds
        )
        for model in settings.models
        for precision in settings.precisions
    ]
    measured = run_rounds(subjects, repeats=settings.repeats, seed=settings.seed, parts=parts, skipped=skipped)
    if settings.device != "cuda" and (reason := why_no_gpu()):
        skipped += [Skipped(name=f"{model} on a GPU", reason=reason) for model in settings.models]
    data = data_info(settings.shards, shard_set, reader, {shard_set.manifest.storage: split_bytes(reader)})
    return _results(clock, data, settings, [subject.line() for subject in measured], skipped, parts)


class ConsumerSubject(LoaderSubject):
    """A loader, alone and behind it a consumer of ``rate`` images/s in a network's place."""

    def __init__(self, *planned: Any, rate: float, **how: Any) -> None:
        super().__init__(*planned, **how)
        self.rate, self.alone = rate, list[Repeat]()

    def turn(self) -> Repeat:
        """Time the loader alone, then the consumer."""
        self.alone.append(msgspec.structs.replace(super().turn(), process=self.process))
        epochs = max(1, round(self.seconds / (self.job.samples / min(self.rate, self.warm["rate"]))))
        return cast(Repeat, self.ask("turn", timed=True, epochs=epochs, consumer_rate=self.rate))

    def consumer_line(self) -> TrainLine:
        """Return what was found."""
        return TrainLine(
            name=self.name,
            repeats=tuple(self.repeats),
            peak_memory_bytes=self.peak_memory_bytes,
            model="consumer",
            precision="",
            device=self.job.device,
            size=self.job.size,
            batch_size=self.job.batch_size,
            loader=tuple(self.alone),
            compute=(Repeat(images=1, seconds=1 / self.rate),),
        )


def run_consumer_benchmark(settings: LoaderSettings, *, rate: float, parts: PartSeconds) -> Results:
    """Put a consumer of ``rate`` images/s in the network's place, behind each loader in turn.

    Raises:
        UsageError: an option is wrong, or nothing could be measured.
        FormatError: no shard set, or damaged.
    """
    clock, skipped = RunClock(), list[Skipped]()
    with loader_workspace(settings, parts) as (workspace, references):
        subjects = [
            ConsumerSubject(*planned, rate=rate, references=references, cache="warm", seconds=settings.seconds)
            for planned in plan_pass(settings, workspace, Pass(), skipped)
        ]
        measured = run_rounds(subjects, repeats=settings.repeats, seed=settings.seed, parts=parts, skipped=skipped)
        lines = sorted((subject.consumer_line() for subject in measured), key=lambda line: -line.rate)
    return _results(clock, workspace.data, settings, lines, skipped, parts, consumer_rate=rate)


def _results(
    clock: RunClock, data: DataInfo, settings: TrainSettings | LoaderSettings, lines: list[TrainLine],
    skipped: list[Skipped], parts: PartSeconds, **more: Any,
) -> Results:  # fmt: skip
    if not lines:
        reasons = "; ".join(f"{one.name}: {one.reason}" for one in skipped)
        raise UsageError(f"nothing could be measured: {reasons or 'no loader fits the options'}")
    return Results(
        kind="train",
        environment=clock.finish(),
        data=data,
        settings={**msgspec.to_builtins(settings, enc_hook=str), **more},
        train=tuple(lines),
        skipped=tuple(skipped),
        parts=parts.rounded(),
    )
