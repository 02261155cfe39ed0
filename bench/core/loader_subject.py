"""A loader as a benchmark subject: opened, checked, warmed up, and timed."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import cast

from msgspec.structs import replace

from bench.core.output_check import judge
from bench.core.subject_process import ProcessSubject, SubjectProcess
from bench.peers import OURS
from bench.peers.job import Job
from bench.peers.peer import Peer
from bench.results.records import LoaderLine, LoaderWork, OutputCheck, Repeat

WINDOW = 0.6  # of a turn's length: each window of the warm-up, and the trial of a number of workers
STAYED = 0.02  # part of the files: where more stays in the page cache than this, a cold line has a caveat


class References(ExitStack):
    """Makes what every loader should deliver, with petseg's, once for each kind of work, all in one process, which
    ends with the block.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._process: SubjectProcess | None = None

    def of(self, job: Job) -> Path:
        """Return the file with what this job's storage should deliver.

        Raises:
            CheckError: petseg's loader failed.
        """
        path = self._folder / f"reference-{job.storage}-{job.mask}-{job.augment}.pickle"
        if not path.exists():
            plain = replace(job, peer=OURS.name, engine="auto", device="cpu", workers=0)
            if self._process is None:
                self._process = self.enter_context(SubjectProcess(plain))
            self._process.ask("reference", job=plain, path=path)
        return path


class LoaderSubject(ProcessSubject):
    """One loader on one storage; its output is checked in its first process."""

    job: Job

    def __init__(self, work: LoaderWork, peer: type[Peer], job: Job, *, references: References, seconds: float) -> None:
        super().__init__(work.name, job)
        self.work, self.peer, self.seconds = work, peer, seconds
        self._references = references
        self._check: OutputCheck | None = None
        self.rate, self._steady, self._resident = 0.0, True, 0.0

    def open(self) -> None:
        """Prepare the peer, check one epoch, and warm it up."""
        window = WINDOW * self.seconds
        workers = self.ask("prepare", trial_seconds=window)
        if self._check is None:
            assert self.running is not None
            self.job = replace(self.job, workers=workers)
            self.peak_memory_bytes = self.running.peak_memory_bytes = 0  # converting and trials do not count
            self._check = self.ask("check", path=self._references.of(self.job))
            judge(self._check, image_differs=any(caveat.image for caveat in self.peer.caveats_on(self.job)))
        self.rate, steady = self.ask("warm_up", window_seconds=window)
        self._steady = self._steady and steady

    def turn(self) -> Repeat:
        """Time complete epochs for about as long as is wanted; of a cold cache one."""
        if self.work.cache == "cold":
            repeat, resident = self.ask("cold_turn", timed=True)
            self._resident = max(self._resident, resident or 0.0)
            return cast(Repeat, repeat)
        epochs = max(1, round(self.seconds * self.rate / self.job.samples))
        return cast(Repeat, self.ask("turn", timed=True, seconds=self.seconds, epochs=epochs))

    def line(self) -> LoaderLine:
        """Return what was found."""
        assert self._check is not None
        return LoaderLine(
            name=self.name, repeats=tuple(self.repeats), peak_memory_bytes=self.peak_memory_bytes, work=self.work,
            workers=self.job.workers, caveats=tuple(self._caveats()), check=self._check, steady=self._steady,
        )  # fmt: skip

    def _caveats(self) -> Iterator[str]:
        yield from (caveat.text for caveat in self.peer.caveats_on(self.job))
        if self.work.cache == "cold" and self.peer.reads_ahead:
            yield "reads ahead of being asked, so its first batches were read before the cache was dropped"
        if self._resident > STAYED:
            yield f"up to {self._resident:.0%} of its files stayed in the page cache"
        if self.job.handicap:
            yield f"slowed on purpose by {self.job.handicap:.0%} (--handicap)"
