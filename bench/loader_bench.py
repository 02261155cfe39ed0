"""``petseg-bench loader``: every loader on every storage, checked, warmed up, and timed in rounds."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from bench.check import CheckError, judge
from bench.driver import PeerProcess
from bench.environment import Started, usable_cores
from bench.gpu import gpu_names, why_no_gpu
from bench.job import Job
from bench.limits import Probe, copy_probe, make_probes, run_probe
from bench.peers import PEERS, PeerSpec, find_peer
from bench.results import Check, Left, Limit, Line, Repeat, Results
from bench.workspace import Stored, Workspace, open_workspace
from shards.errors import UsageError

ENGINES = ("dali", "torch")
Note = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class LoaderSettings:
    """The options of ``petseg-bench loader``; see its help."""

    shards: Path
    split: str = "train"
    storages: tuple[str, ...] = ("source", "jpeg", "raw")
    peers: tuple[str, ...] = ()
    size: int = 128
    batch_size: int = 32
    workers: int = 0
    repeats: int = 5
    seconds: float = 1.0
    augment: str = "both"
    cache: str = "warm"
    device: str = "cpu"
    seed: int = 0
    source: Path | None = None
    work: Path | None = None
    handicap: float = 0.0

    def check(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            UsageError: with the option.
        """
        for name, value, least in (("--size", self.size, 8), ("--batch-size", self.batch_size, 1),
                                   ("--repeats", self.repeats, 1), ("--workers", self.workers, 0)):  # fmt: skip
            if value < least:
                raise UsageError(f"{name} {value}: must be {least} or more")
        if not 0 < self.seconds <= 600:
            raise UsageError(f"--seconds {self.seconds}: must be above 0 and at most 600")
        if not 0 <= self.handicap < 1:
            raise UsageError(f"--handicap {self.handicap}: must be 0 or more and below 1")
        known = {spec.name for spec in PEERS}
        for name in self.peers:
            if name not in known:
                raise UsageError(f"--peers: {name!r} is not known; there are: {', '.join(sorted(known))}")


@dataclass(kw_only=True)
class Lane:
    """One line while it is measured."""

    name: str
    spec: PeerSpec
    job: Job
    cache: str
    process: PeerProcess
    prepared: dict[str, Any]
    check: Check
    warm: dict[str, Any]
    repeats: list[Repeat] = field(default_factory=list)
    resident: float | None = None
    failed: str = ""

    def take_turn(self, settings: LoaderSettings) -> None:
        """Time one repeat; a peer that fails is closed, and keeps the reason."""
        epoch_seconds = self.warm["epoch_seconds"]
        try:
            if self.cache == "cold":
                answer = self.process.ask("cold_turn")
                found = answer["repeat"]
                if answer["resident"] is not None:
                    self.resident = max(self.resident or 0.0, answer["resident"])
            else:
                epochs = max(1, round(settings.seconds / epoch_seconds))
                lead_in = max(1, round(0.2 * settings.seconds / epoch_seconds))
                found = self.process.ask("turn", epochs=epochs, lead_in=lead_in)
            self.repeats.append(msgspec.convert(found, Repeat))
        except CheckError as error:
            self.failed = str(error)
            self.process.close()


def run_loader_bench(settings: LoaderSettings, *, note: Note) -> Results:
    """Measure, and return everything that was found.

    Args:
        settings: the options.
        note: is told in a line what is done now.

    Raises:
        UsageError: an option is wrong, or nothing could be measured.
        FormatError: no shard set, or damaged.
    """
    settings.check()
    started = Started()
    with open_workspace(
        settings.shards,
        split=settings.split,
        storages=settings.storages,
        size=settings.size,
        source=settings.source,
        work=settings.work,
    ) as workspace:
        left: list[Left] = []
        lines: list[Line] = []
        limits: dict[Probe, list[float]] = {}
        if settings.device == "cuda" and (reason := why_no_gpu()):
            raise UsageError(f"--device cuda: {reason}")
        for augment, cache in _passes(settings):
            jobs = [
                (name, spec, _with_workers(job, lines))
                for name, spec, job in _jobs(settings, workspace, augment=augment, left=left, cache=cache)
            ]
            probes = _probes(settings, workspace) if (augment, cache) == _passes(settings)[0] else []
            lines += _measure(
                jobs, settings, workspace, cache=cache, left=left, probes=probes, limits=limits, note=note
            )
        data = workspace.data
    if not lines:
        reasons = "; ".join(f"{one.name}: {one.reason}" for one in left)
        raise UsageError(f"nothing could be measured: {reasons or 'no loader fits the options'}")
    return Results(
        format="petseg-bench",
        version=1,
        kind="loader",
        environment=started.finish(gpu=gpu_names()),
        data=data,
        settings=_plain(settings),
        lines=tuple(lines),
        left=tuple(left),
        limits=tuple(
            Limit(name=probe.name, storage=probe.storage, rates=tuple(rates), how=probe.how)
            for probe, rates in limits.items()
        ),
    )


def _passes(settings: LoaderSettings) -> list[tuple[bool, str]]:
    """Return which of (augment, cache) are measured, one after another."""
    augments = {"none": [False], "train": [True], "both": [False, True]}[settings.augment]
    caches = {"warm": ["warm"], "cold": ["cold"], "both": ["warm", "cold"]}[settings.cache]
    return [(augment, cache) for cache in caches for augment in augments if not (augment and cache == "cold")] or [
        (True, "cold")
    ]


def _jobs(
    settings: LoaderSettings, workspace: Workspace, *, augment: bool, left: list[Left], cache: str
) -> Iterator[tuple[str, PeerSpec, Job]]:
    """Yield name, peer and job of every line of a pass; note those that cannot be."""
    devices = [settings.device] if settings.device == "cpu" else ["cpu", "cuda"]
    no_gpu = why_no_gpu() if settings.device == "cpu" else ""
    for storage, stored in workspace.stored.items():
        if storage not in settings.storages:
            continue
        for spec in PEERS:
            if (settings.peers and spec.name not in settings.peers) or storage not in spec.storages:
                continue
            name = line_name(spec.name, storage, "", augment=augment, cache=cache)
            if missing := spec.missing():
                left.append(
                    Left(name=name, reason=f"not installed: {', '.join(missing)} (pip install 'petseg[peers]')")
                )
                continue
            if augment and not spec.augments:
                left.append(Left(name=name, reason="has no training augmentation in its peer file"))
                continue
            for device in devices:
                for engine in (ENGINES if device == "cpu" else ("dali",)) if spec.ours else ("",):
                    job = _job(settings, workspace, stored, spec, augment=augment, engine=engine, device=device)
                    named = line_name(spec.name, storage, engine, augment=augment, cache=cache, device=device)
                    yield named, spec, job
            if spec.ours and no_gpu:
                named = line_name(spec.name, storage, "dali", augment=augment, cache=cache, device="cuda")
                left.append(Left(name=named, reason=no_gpu))


def line_name(peer: str, storage: str, engine: str, *, augment: bool, cache: str, device: str = "cpu") -> str:
    """Return the name of a line: what it is, without what varies between machines."""
    words = [peer, storage, engine, "" if device == "cpu" else "gpu", "augmented" if augment else ""]
    return " ".join(word for word in [*words, "cold" if cache == "cold" else ""] if word)


def _job(
    settings: LoaderSettings,
    workspace: Workspace,
    stored: Stored,
    spec: PeerSpec,
    *,
    augment: bool,
    engine: str,
    device: str,
) -> Job:
    work = workspace.folder / "work" / f"{spec.name}-{stored.storage}"
    work.mkdir(parents=True, exist_ok=True)
    return Job(
        peer=spec.name,
        storage=stored.storage,
        shards=str(stored.shards.resolve()),
        pictures=str(stored.pictures),
        keys=str(stored.keys),
        work=str(work),
        split=settings.split,
        samples=workspace.data.samples,
        size=settings.size,
        batch_size=settings.batch_size,
        augment=augment,
        seed=settings.seed,
        workers=settings.workers,
        cores=usable_cores(),
        device=device,
        engine=engine,
        handicap=settings.handicap,
    )


def _with_workers(job: Job, lines: Sequence[Line]) -> Job:
    """Keep the number of workers that the same loader was fastest with in an earlier pass, rather than try again."""
    for line in lines:
        if (line.peer, line.storage, line.device) == (job.peer, job.storage, job.device) and line.workers:
            return msgspec.structs.replace(job, workers=line.workers)
    return job


def _probes(settings: LoaderSettings, workspace: Workspace) -> list[Probe]:
    probes = [copy_probe(size=settings.size, samples=workspace.data.samples)]
    for storage, stored in workspace.stored.items():
        if storage in settings.storages:
            probes += make_probes(stored, split=settings.split, size=settings.size, seed=settings.seed)
    return probes


def _measure(
    jobs: Sequence[tuple[str, PeerSpec, Job]],
    settings: LoaderSettings,
    workspace: Workspace,
    *,
    cache: str,
    left: list[Left],
    probes: Sequence[Probe],
    limits: dict[Probe, list[float]],
    note: Note,
) -> list[Line]:
    """Measure one pass: open and check each peer, then let them take turns."""
    with ExitStack() as stack:
        lanes = _open_all(jobs, workspace, cache=cache, left=left, stack=stack, note=note)
        order = random.Random(settings.seed)
        for number in range(settings.repeats):
            for probe in probes:
                note(f"round {number + 1} of {settings.repeats}: limit, {probe.name} {probe.storage}")
                limits.setdefault(probe, []).append(run_probe(probe, cores=usable_cores()))
            for lane in order.sample(lanes, len(lanes)):
                if not lane.failed:
                    note(f"round {number + 1} of {settings.repeats}: {lane.name}")
                    lane.take_turn(settings)
        for lane in lanes:
            if lane.failed:
                left.append(Left(name=lane.name, reason=lane.failed))
        return [_line(lane) for lane in lanes if not lane.failed]


def open_lanes(
    settings: LoaderSettings, workspace: Workspace, *, augment: bool, left: list[Left], stack: ExitStack, note: Note
) -> list[Lane]:
    """Open, check and warm up every peer that fits the options, page cache warm; the stack ends them."""
    jobs = list(_jobs(settings, workspace, augment=augment, left=left, cache="warm"))
    return _open_all(jobs, workspace, cache="warm", left=left, stack=stack, note=note)


def _open_all(
    jobs: Sequence[tuple[str, PeerSpec, Job]],
    workspace: Workspace,
    *,
    cache: str,
    left: list[Left],
    stack: ExitStack,
    note: Note,
) -> list[Lane]:
    lanes: list[Lane] = []
    for name, spec, job in jobs:
        note(f"{name}: check and warm-up")
        try:
            lanes.append(_open(name, spec, job, workspace, cache=cache, stack=stack))
        except CheckError as error:
            left.append(Left(name=name, reason=str(error)))
    return lanes


def _open(name: str, spec: PeerSpec, job: Job, workspace: Workspace, *, cache: str, stack: ExitStack) -> Lane:
    """Start a peer's process, check one epoch, and warm it up.

    Raises:
        CheckError: it cannot be opened, or what it delivers is not right.
    """
    reference = _reference(job, workspace)
    lane_stack = ExitStack()
    with lane_stack:
        process = lane_stack.enter_context(PeerProcess(job))
        prepared = process.ask("prepare")
        process.peak_memory_bytes = 0  # converting and trying numbers of workers do not count
        check = msgspec.convert(process.ask("check", folder=str(reference)), Check)
        judge(check, image_differs=spec.image_differs(job.storage), mask_differs=spec.mask_differs(job.storage))
        warm = process.ask("warm_up")
        stack.push(lane_stack.pop_all())
    return Lane(
        name=name, spec=spec, job=job, cache=cache, process=process, prepared=prepared, check=check, warm=warm
    )  # fmt: skip


def _reference(job: Job, workspace: Workspace) -> Path:
    """Return the folder of what this storage should deliver, made by our loader with the first engine that works."""
    folder = workspace.folder / f"reference-{job.storage}{'-augmented' if job.augment else ''}"
    if not folder.exists():
        ours = next(spec for spec in PEERS if spec.ours)
        with PeerProcess(
            msgspec.structs.replace(job, peer=ours.name, engine="auto", device="cpu", workers=0)
        ) as process:
            process.ask("prepare")
            process.ask("reference", folder=str(folder))
    return folder


def _line(lane: Lane) -> Line:
    prepared = lane.prepared
    marks = lane.spec.marks(lane.job.storage)
    if lane.cache == "cold" and lane.spec.reads_ahead:
        marks.append("reads ahead of being asked, so its first batches were read before the cache was dropped")
    if lane.job.handicap:
        marks.append(f"slowed on purpose by {lane.job.handicap:.0%} (--handicap)")
    return Line(
        name=lane.name,
        peer=lane.spec.name,
        storage=lane.job.storage,
        engine=lane.job.engine,
        device=lane.job.device,
        augment=lane.job.augment,
        cache="cold" if lane.cache == "cold" else "warm",
        workers=prepared["workers"],
        tried=prepared["tried"],
        marks=tuple(marks),
        check=lane.check,
        warmup_seconds=lane.warm["seconds"],
        steady=lane.warm["steady"],
        prepare_seconds=prepared["prepare_seconds"] if lane.spec.converts else None,
        repeats=tuple(lane.repeats),
        peak_memory_bytes=lane.process.peak_memory_bytes,
        resident_before=lane.resident,
    )


def _plain(settings: LoaderSettings) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(settings, enc_hook=str)
    return plain


__all__ = ["LoaderSettings", "find_peer", "line_name", "run_loader_bench"]
