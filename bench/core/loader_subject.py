"""A loader as a benchmark subject: opened, checked, warmed up, and timed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import msgspec

from bench.core.output_check import judge
from bench.core.rounds import PartSeconds, Subject
from bench.core.subject_process import SubjectProcess, TrainJob
from bench.job import Job
from bench.peers import PEERS, PeerSpec
from bench.results.records import LoaderLine, OutputCheck, Repeat

LEAD_IN = 0.2  # of a turn's length: epochs that are run before those that are timed
STAYED = 0.02  # part of the files: where more stays in the page cache than this, a cold line has a caveat


class ProcessSubject(Subject):
    """A subject whose work is done by a :class:`SubjectProcess`."""

    def __init__(self, name: str, job: Job | TrainJob) -> None:
        super().__init__(name)
        self.job = job
        self.peak_memory_bytes = 0
        self.spent = PartSeconds()
        self._running: SubjectProcess | None = None

    def start(self) -> None:
        """Start the process, which imports its libraries."""
        self._running = SubjectProcess(self.job, parts=self.spent)
        self._running.start()

    def ask(self, command: str, **arguments: Any) -> Any:
        """Run a command in the process."""
        assert self._running is not None
        try:
            return self._running.ask(command, **arguments)
        finally:
            self.peak_memory_bytes = max(self.peak_memory_bytes, self._running.peak_memory_bytes)

    def hang_up(self) -> None:
        """Let the process end."""
        if self._running is not None:
            self._running.hang_up()

    def close(self) -> None:
        """End the process."""
        if self._running is not None:
            self._running.close()
            self._running = None


class LoaderSubject(ProcessSubject):
    """One loader on one storage; its output is checked in its first process."""

    job: Job

    def __init__(
        self, name: str, spec: PeerSpec, job: Job, *, references: References, cache: str, seconds: float
    ) -> None:
        super().__init__(name, job)
        self.spec, self.cache, self.seconds = spec, cache, seconds
        self._references = references
        self.prepared: dict[str, Any] = {}
        self.warm: dict[str, Any] = {}
        self.check: OutputCheck | None = None
        self.resident: float | None = None

    def open(self) -> None:
        """Prepare the peer, check one epoch, and warm it up."""
        prepared = self.ask("prepare")
        if self.check is None:
            self.prepared = prepared
            self.job = msgspec.structs.replace(self.job, workers=prepared["workers"])
            self.peak_memory_bytes = 0  # converting and trying numbers of workers do not count
            assert self._running is not None
            self._running.peak_memory_bytes = 0
            self.check = self.ask("check", path=self._references.of(self.job))
            differs = self.spec.image_differs(self.job.storage), self.spec.mask_differs(self.job.storage)
            judge(self.check, image_differs=differs[0], mask_differs=differs[1])
        warm = self.ask("warm_up")
        self.warm = {**warm, "steady": warm["steady"] and self.warm.get("steady", True)}

    def turn(self) -> Repeat:
        """Time complete epochs for about as long as is wanted; of a cold cache one."""
        if self.cache == "cold":
            repeat, resident = self.ask("cold_turn", timed=True)
            if resident is not None:
                self.resident = max(self.resident or 0.0, resident)
            return cast(Repeat, repeat)
        epochs = self.seconds * self.warm["rate"] / self.job.samples
        lead_in = max(1, round(LEAD_IN * epochs))
        return cast(Repeat, self.ask("turn", timed=True, epochs=max(1, round(epochs)), lead_in=lead_in))

    def line(self) -> LoaderLine:
        """Return what was found."""
        assert self.check is not None
        job = self.job
        return LoaderLine(
            name=self.name,
            repeats=tuple(self.repeats),
            peak_memory_bytes=self.peak_memory_bytes,
            peer=self.spec.name,
            storage=job.storage,
            engine=job.engine,
            device=job.device,
            augment=job.augment,
            mask=cast(Any, job.mask),
            cache=cast(Any, self.cache),
            workers=self.prepared["workers"],
            tried=self.prepared["tried"],
            caveats=tuple(self._caveats()),
            check=self.check,
            warmup_seconds=self.warm["seconds"],
            steady=self.warm["steady"],
            prepare_seconds=self.prepared["seconds"] if self.spec.converts else None,
            resident_before=self.resident,
            spent=self.spent.rounded(),
        )

    def _caveats(self) -> Iterator[str]:
        yield from self.spec.marks(self.job.storage)
        if self.cache == "cold" and self.spec.reads_ahead:
            yield "reads ahead of being asked, so its first batches were read before the cache was dropped"
        if self.cache == "cold" and (self.resident or 0.0) > STAYED:
            yield f"up to {self.resident:.0%} of its files stayed in the page cache"
        if self.job.handicap:
            yield f"slowed on purpose by {self.job.handicap:.0%} (--handicap)"


class References:
    """Makes what every loader should deliver, with petseg's, once for each kind of work, all in one process; a context
    manager that ends it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._stack = folder, ExitStack()
        self._process: SubjectProcess | None = None

    def __enter__(self) -> References:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def of(self, job: Job) -> Path:
        """Return the file with what this job's storage should deliver.

        Raises:
            CheckError: petseg's loader failed.
        """
        path = self._folder / f"reference-{job.storage}-{job.mask}-{job.augment}.npz"
        if not path.exists():
            ours = next(spec for spec in PEERS if spec.ours)
            plain = msgspec.structs.replace(job, peer=ours.name, engine="auto", device="cpu", workers=0)
            if self._process is None:
                self._process = self._stack.enter_context(SubjectProcess(plain))
            self._process.ask("reference", job=plain, path=path)
        return path
