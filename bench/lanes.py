"""One line while it is measured: a loader's process, opened, checked, warmed up, and then taking its turns."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from bench.check import CheckError, judge
from bench.driver import PeerProcess
from bench.environment import usable_cores
from bench.job import Job
from bench.loader_settings import LoaderSettings, Note
from bench.peers import PeerSpec
from bench.references import References
from bench.results import Check, Left, Line, Repeat
from pipeline.choose_engine import choose_engine

LEAD_IN = 0.2  # of a turn's length: epochs that are run before those that are timed
STAYED = 0.02  # part of the files: where more stays in the page cache than this, a cold line is marked


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
                answer = self.process.ask_unwatched("cold_turn")
                found = answer["repeat"]
                if answer["resident"] is not None:
                    self.resident = max(self.resident or 0.0, answer["resident"])
            else:
                epochs = max(1, round(settings.seconds / epoch_seconds))
                lead_in = max(1, round(LEAD_IN * settings.seconds / epoch_seconds))
                found = self.process.ask_unwatched("turn", epochs=epochs, lead_in=lead_in)
            self.repeats.append(msgspec.convert(found, Repeat))
        except CheckError as error:
            self.failed = str(error)
            self.process.close()

    def line(self) -> Line:
        """Return what was found."""
        prepared, job = self.prepared, self.job
        return Line(
            name=self.name,
            peer=self.spec.name,
            storage=job.storage,
            engine=job.engine,
            device=job.device,
            augment=job.augment,
            mask=cast(Any, job.mask),
            default=self.spec.ours and job.engine == default_engine(job),
            cache="cold" if self.cache == "cold" else "warm",
            workers=prepared["workers"],
            tried=prepared["tried"],
            marks=tuple(self._marks()),
            check=self.check,
            warmup_seconds=self.warm["seconds"],
            steady=self.warm["steady"],
            prepare_seconds=prepared["prepare_seconds"] if self.spec.converts else None,
            repeats=tuple(self.repeats),
            peak_memory_bytes=self.process.peak_memory_bytes,
            resident_before=self.resident,
            spent=self.process.parts.rounded(),
        )

    def _marks(self) -> Iterable[str]:
        yield from self.spec.marks(self.job.storage)
        if self.cache == "cold" and self.spec.reads_ahead:
            yield "reads ahead of being asked, so its first batches were read before the cache was dropped"
        if self.cache == "cold" and (self.resident or 0.0) > STAYED:
            yield f"up to {self.resident:.0%} of its files stayed in the page cache"
        if self.job.handicap:
            yield f"slowed on purpose by {self.job.handicap:.0%} (--handicap)"


def default_engine(job: Job) -> str:
    """Return the engine that our Loader takes by itself."""
    return choose_engine("auto", device_type=job.device, storage=cast(Any, job.storage))[0]


def open_lanes(
    jobs: Iterable[tuple[str, PeerSpec, Job]],
    references: References,
    *,
    cache: str,
    left: list[Left],
    stack: ExitStack,
    note: Note,
) -> list[Lane]:
    """Open, check and warm up the peers of these jobs; one that fails is noted with its reason. The stack ends them.

    Their processes start beforehand, as many at a time as there are cores: that is imports alone. What follows, they do
    one after the other.
    """
    wanted = list(jobs)
    note(f"starting {len(wanted)} processes")
    processes = [PeerProcess(job) for _, _, job in wanted]
    for process in processes:
        stack.callback(process.close)
    with ThreadPoolExecutor(usable_cores()) as pool:
        problems = list(pool.map(_start, processes))
    lanes: list[Lane] = []
    for (name, spec, job), process, problem in zip(wanted, processes, problems, strict=True):
        note(f"{name}: check and warm-up")
        try:
            if problem is not None:
                raise problem
            lanes.append(_open(name, spec, job, process, references, cache=cache))
        except CheckError as error:
            process.close()
            left.append(Left(name=name, reason=str(error)))
    return lanes


def hang_up(lanes: Iterable[Lane]) -> None:
    """Let all processes end at the same time rather than one after the other."""
    for lane in lanes:
        lane.process.hang_up()


def _start(process: PeerProcess) -> CheckError | None:
    """Start a peer; return what is in the way."""
    try:
        process.start()
    except CheckError as error:
        return error
    return None


def _open(name: str, spec: PeerSpec, job: Job, process: PeerProcess, references: References, *, cache: str) -> Lane:
    """Prepare a peer, check one epoch, and warm it up.

    Raises:
        CheckError: it cannot be opened, or what it delivers is not right.
    """
    reference = references.of(job)
    prepared = process.ask("prepare")
    process.peak_memory_bytes = 0  # converting and trying numbers of workers do not count
    check = msgspec.convert(process.ask("check", folder=str(reference)), Check)
    judge(check, image_differs=spec.image_differs(job.storage), mask_differs=spec.mask_differs(job.storage))
    warm = process.ask("warm_up")
    return Lane(
        name=name, spec=spec, job=job, cache=cache, process=process, prepared=prepared, check=check, warm=warm
    )  # fmt: skip
