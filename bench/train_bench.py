"""``petseg-bench train``: how much of the network's speed the loader costs."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from bench.check import CheckError
from bench.driver import PeerProcess
from bench.environment import Started
from bench.gpu import gpu_names, why_no_gpu
from bench.lanes import hang_up, open_lanes
from bench.loader_settings import LoaderSettings, Note, Pass
from bench.parts import Parts
from bench.plan import planned
from bench.references import References
from bench.results import Data, GpuCost, Left, Results, TrainLine
from bench.train_job import TrainJob
from bench.workspace import workspace_of
from shards.errors import UsageError
from shards.format.dataset import ShardSet


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """The options of ``petseg-bench train``; see its help."""

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

    def check(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            UsageError: with the option.
        """
        if self.repeats < 1:
            raise UsageError(f"--repeats {self.repeats}: must be 1 or more")
        if not 0 < self.seconds <= 600:
            raise UsageError(f"--seconds {self.seconds}: must be above 0 and at most 600")
        for model in self.models:
            if model not in ("unet", "tutorial"):
                raise UsageError(f"--models: {model!r} is not known; there are: unet, tutorial")


@dataclass
class _Bench:
    """One line while it is measured."""

    name: str
    process: PeerProcess
    prepared: dict[str, Any]
    turns: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {"loader": [], "memory": [], "real": []})


def run_train_bench(settings: TrainSettings, *, note: Note) -> Results:
    """Measure loader alone, training in memory and training for real, in turns, for each model and precision.

    Raises:
        UsageError: an option is wrong, or nothing could be measured.
        FormatError: no shard set, or damaged.
    """
    settings.check()
    started, parts = Started(), Parts()
    shard_set = ShardSet.open(settings.shards)
    reader = shard_set.split(settings.split)
    left: list[Left] = []
    with ExitStack() as stack:
        with parts.of("open"):
            benches = _open(settings, stack, left, note)
        for number in range(settings.repeats):
            for bench in benches:
                for mode, turns in bench.turns.items():
                    note(f"round {number + 1} of {settings.repeats}: {bench.name}, {mode}")
                    with parts.of("turns"):
                        turns.append(bench.process.ask(f"{mode}_turn", seconds=settings.seconds))
        lines = tuple(_line(bench) for bench in benches)
    if settings.device != "cuda" and (reason := why_no_gpu()):
        left += [Left(name=f"{model} on a GPU", reason=reason) for model in settings.models]
    if not lines:
        raise UsageError("; ".join(f"{one.name}: {one.reason}" for one in left))
    size = int(reader.table["image_length"].sum()) + int(reader.table["trimap_length"].sum())
    return Results(
        format="petseg-bench",
        version=1,
        kind="train",
        environment=started.finish(gpu=gpu_names()),
        data=Data(
            path=str(settings.shards),
            fingerprint=shard_set.manifest.fingerprint,
            split=settings.split,
            samples=len(reader),
            bytes={shard_set.manifest.storage: size},
        ),
        settings=msgspec.to_builtins(settings, enc_hook=str),
        train=lines,
        left=tuple(left),
        parts=parts.rounded(),
    )


def _open(settings: TrainSettings, stack: ExitStack, left: list[Left], note: Note) -> list[_Bench]:
    benches = []
    for model in settings.models:
        for precision in settings.precisions:
            job = TrainJob(
                model=model,
                precision=precision,
                device=settings.device,
                size=settings.size,
                batch_size=settings.batch_size,
                shards=str(settings.shards),
                split=settings.split,
                engine=settings.engine,
                seed=settings.seed,
            )
            note(f"{model} {precision}: warm-up")
            try:
                process = stack.enter_context(PeerProcess(job))
                prepared = process.ask("prepare")
            except CheckError as error:
                left.append(Left(name=f"{model} {precision}", reason=str(error)))
                continue
            name = f"{model} {prepared['precision']} {prepared['size']} px {prepared['device']} {prepared['engine']}"
            benches.append(_Bench(name, process, prepared))
    return benches


def _line(bench: _Bench) -> TrainLine:
    loader, memory, real = (bench.turns[mode] for mode in ("loader", "memory", "real"))
    prepared = bench.prepared
    steps = sorted(real, key=lambda turn: turn["rate"])[len(real) // 2]["step_ms"]
    return TrainLine(
        name=bench.name,
        model=bench.process.job.model if isinstance(bench.process.job, TrainJob) else "",
        precision=prepared["precision"],
        device=prepared["device"],
        size=prepared["size"],
        batch_size=prepared["batch_size"],
        loader_rates=tuple(turn["rate"] for turn in loader),
        memory_rates=tuple(turn["rate"] for turn in memory),
        real_rates=tuple(turn["rate"] for turn in real),
        wait_share=tuple(turn["wait_share"] for turn in real),
        step_ms=(steps[0], steps[1]),
        peak_gpu_bytes=bench.process.ask("gpu_memory")["bytes"],
        peak_memory_bytes=bench.process.peak_memory_bytes,
        gpu=None if real[-1]["gpu"] is None else msgspec.convert(real[-1]["gpu"], GpuCost),
    )


def run_consumer_bench(settings: LoaderSettings, *, rate: float, note: Note) -> Results:
    """Put a consumer of ``rate`` pictures/s in the network's place, behind each loader in turn.

    Raises:
        UsageError: an option is wrong, or nothing could be measured.
        FormatError: no shard set, or damaged.
    """
    settings.check()
    if not 0 < rate <= 1e7:
        raise UsageError(f"--consumer-rate {rate:g}: must be above 0 and at most 10,000,000")
    started, parts = Started(), Parts()
    left: list[Left] = []
    with ExitStack() as stack:
        with parts.of("lay out"):
            workspace = stack.enter_context(workspace_of(settings))
        one = Pass(settings.augment == "train", "warm", "onehot")
        with parts.of("open"):
            references = stack.enter_context(References(workspace.folder))
            jobs = planned(settings, workspace, one, left)
            lanes = open_lanes(jobs, references, cache=one.cache, left=left, stack=stack, note=note)
        consumed: dict[str, list[dict[str, Any]]] = {lane.name: [] for lane in lanes}
        for number in range(settings.repeats):
            for lane in lanes:
                note(f"round {number + 1} of {settings.repeats}: {lane.name}")
                with parts.of("turns"):
                    lane.take_turn(settings)
                    if not lane.failed:
                        consumed[lane.name].append(lane.process.ask("consume", rate=rate, seconds=settings.seconds))
        with parts.of("close"):
            hang_up(lanes)
        left += [Left(name=lane.name, reason=lane.failed) for lane in lanes if lane.failed]
        lines = []
        for lane in lanes:
            if lane.failed:
                continue
            turns = consumed[lane.name]
            steps = sorted(turns, key=lambda turn: turn["rate"])[len(turns) // 2]["step_ms"]
            lines.append(
                TrainLine(
                    name=lane.name,
                    model="consumer",
                    precision="",
                    device=settings.device,
                    size=settings.size,
                    batch_size=settings.batch_size,
                    loader_rates=tuple(repeat.rate for repeat in lane.repeats),
                    memory_rates=(rate,),
                    real_rates=tuple(turn["rate"] for turn in turns),
                    wait_share=tuple(turn["wait_share"] for turn in turns),
                    step_ms=(steps[0], steps[1]),
                    peak_memory_bytes=lane.process.peak_memory_bytes,
                )
            )
        data = workspace.data
    if not lines:
        raise UsageError("; ".join(f"{one.name}: {one.reason}" for one in left) or "no loader fits the options")
    lines.sort(key=lambda line: -sum(line.real_rates))
    return Results(
        format="petseg-bench",
        version=1,
        kind="train",
        environment=started.finish(gpu=gpu_names()),
        data=data,
        settings={**msgspec.to_builtins(settings, enc_hook=str), "consumer_rate": rate},
        train=tuple(lines),
        left=tuple(left),
        parts=parts.rounded(),
    )
