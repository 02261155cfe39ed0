"""A loader as a benchmark subject: opened, checked, warmed up, and timed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

from msgspec.structs import replace

from bench.core.output_check import judge
from bench.core.rounds import PartSeconds, Subject
from bench.core.subject_process import SubjectProcess, TrainJob
from bench.peers import PEERS, PeerSpec
from bench.peers.job import Job
from bench.results.records import LoaderLine, LoaderWork, OutputCheck, Repeat

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

    def ask(self, command: str, *, timed: bool = False, **arguments: Any) -> Any:
        """Run a command in the process."""
        assert self._running is not None
        answer = self._running.ask(command, timed=timed, **arguments)
        self.peak_memory_bytes = max(self.peak_memory_bytes, self._running.peak_memory_bytes)
        return answer

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

    def __init__(self, work: LoaderWork, spec: PeerSpec, job: Job, *, references: References, seconds: float) -> None:
        super().__init__(work.name, job)
        self.work, self.spec, self.seconds = work, spec, seconds
        self._references = references
        self._prepared: dict[str, Any] = {}
        self._check: OutputCheck | None = None
        self.rate, self._steady, self._warmup_seconds = 0.0, True, 0.0
        self._resident: float | None = None

    def open(self) -> None:
        """Prepare the peer, check one epoch, and warm it up."""
        prepared = self.ask("prepare")
        if self._check is None:
            self._prepared = prepared
            self.job = replace(self.job, workers=prepared["workers"])
            if self._running:
                self.peak_memory_bytes = self._running.peak_memory_bytes = 0  # converting and trials do not count
            self._check = self.ask("check", path=self._references.of(self.job))
            image_differs, mask_differs = (
                self.spec.image_differs(self.job.storage),
                self.spec.mask_differs(self.job.storage),
            )
            judge(self._check, image_differs=image_differs, mask_differs=mask_differs)
        self.rate, steady, seconds = self.ask("warm_up")
        self._steady, self._warmup_seconds = self._steady and steady, max(self._warmup_seconds, seconds)

    def turn(self) -> Repeat:
        """Time complete epochs for about as long as is wanted; of a cold cache one."""
        if self.work.cache == "cold":
            repeat, resident = self.ask("cold_turn", timed=True)
            if resident is not None:
                self._resident = max(self._resident or 0.0, resident)
            return cast(Repeat, repeat)
        epochs = max(1, round(self.seconds * self.rate / self.job.samples))
        return cast(Repeat, self.ask("turn", timed=True, seconds=self.seconds, epochs=epochs))

    def line(self) -> LoaderLine:
        """Return what was found."""
        assert self._check is not None
        return LoaderLine(
            name=self.name, repeats=tuple(self.repeats), peak_memory_bytes=self.peak_memory_bytes, work=self.work,
            workers=self.job.workers, tried=self._prepared["tried"], caveats=tuple(self._caveats()),
            check=self._check, warmup_seconds=self._warmup_seconds, steady=self._steady,
            prepare_seconds=self._prepared["seconds"] if self.spec.converts else None,
            resident_before=self._resident, spent=self.spent.rounded(),
        )  # fmt: skip

    def _caveats(self) -> Iterator[str]:
        yield from self.spec.caveats_on(self.job.storage)
        if self.work.cache == "cold" and self.spec.reads_ahead:
            yield "reads ahead of being asked, so its first batches were read before the cache was dropped"
        if self.work.cache == "cold" and (self._resident or 0.0) > STAYED:
            yield f"up to {self._resident:.0%} of its files stayed in the page cache"
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
            plain = replace(job, peer=ours.name, engine="auto", device="cpu", workers=0)
            if self._process is None:
                self._process = self._stack.enter_context(SubjectProcess(plain))
            self._process.ask("reference", job=plain, path=path)
        return path
