"""A loader as a benchmark subject: opened, checked, warmed up, and timed; and what its process does on command."""

import importlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from msgspec.structs import replace

from bench.core.output_check import check_epoch, collect_reference, judge
from bench.core.resources import drop_from_page_cache, resident_share
from bench.core.stopwatch import Stopwatch, warm_up
from bench.core.subject_process import ProcessSubject
from bench.peers import OURS, PEERS
from bench.peers.job import Job
from bench.peers.peer import Peer
from bench.results.records import LoaderLine, LoaderWork, OutputCheck, Repeat

WINDOW = 0.6  # of a turn's length: each window of the warm-up, and the trial of a number of workers
LEAD_IN = 0.2  # of a turn's length: epochs that are run before those that are timed
STAYED = 0.02  # part of the files: where more stays in the page cache than this, a cold line has a caveat


class References:
    """Makes what every loader should deliver, with petseg's, once for each kind of work, all in one process, which
    ends with :meth:`close`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._process = folder, list[ProcessSubject]()  # one at most

    def of(self, job: Job) -> Path:
        """Return the file with what this job's storage should deliver.

        Raises:
            CheckError: petseg's loader failed.
        """
        path = self._folder / f"reference-{job.storage}-{job.mask}-{job.augment}.pickle"
        if not path.exists():
            plain = replace(job, peer=OURS.name, engine="auto", device="cpu", workers=0)
            if not self._process:
                self._process.append(ProcessSubject("references", plain))
                self._process[0].start()
            self._process[0].ask("reference", job=plain, path=path)
        return path

    def close(self) -> None:
        """End the process."""
        for process in self._process:
            process.close()


class LoaderSubject(ProcessSubject):
    """One loader on one storage; its output is checked in its first process."""

    job: Job

    def __init__(self, work: LoaderWork, peer: type[Peer], job: Job, *, references: References, seconds: float) -> None:
        super().__init__(work.name, job)
        self.work, self.peer, self.seconds, self._references = work, peer, seconds, references
        self._check: OutputCheck | None = None
        self.rate, self._steady, self._resident = 0.0, True, 0.0

    def open(self) -> None:
        """Prepare the peer, check one epoch, and warm it up."""
        window = WINDOW * self.seconds
        workers = self.ask("prepare", trial_seconds=window)
        if self._check is None:
            self.job = replace(self.job, workers=workers)
            self.peak_memory_bytes = 0  # converting and trials do not count
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


class LoaderServer:
    """One peer in a process of its own, and what is done with it there."""

    def __init__(self, job: Job) -> None:
        if job.peer not in PEERS:
            raise LookupError(f"no peer {job.peer!r}")
        self.job, self.peer = job, PEERS[job.peer](job)
        if self.peer.needs:
            importlib.import_module(self.peer.needs)
        self.watch = Stopwatch(self.peer, job)

    def prepare(self, trial_seconds: float) -> int:
        """Convert the images, choose the number of workers, open the peer with it, and return it."""
        self.peer.prepare()
        counts = self.peer.worker_counts() if not self.job.workers else ()
        tried = {count: self._try(count, trial_seconds) for count in counts}
        workers = max(tried, key=lambda count: tried[count], default=self.job.workers)
        self.peer.open(workers)
        return workers

    def reference(self, job: Job, path: Path) -> None:
        """Write what a peer, which is opened for this alone, delivers in epoch 0, as what others must deliver."""
        peer = PEERS[job.peer](job)
        peer.open(job.workers)
        try:
            path.write_bytes(pickle.dumps(collect_reference(peer.epoch(0), job)))
        finally:
            peer.close()

    def check(self, path: Path) -> OutputCheck:
        """Compare epoch 0 with a reference."""
        return check_epoch(self.peer.epoch(0), self.job, pickle.loads(path.read_bytes()))

    def warm_up(self, window_seconds: float) -> tuple[float, bool]:
        """Run until the speed no longer rises; return the last rate, and whether it is steady."""
        epochs = 1

        def window() -> float:
            nonlocal epochs
            repeat, epochs = self.watch.run_about(window_seconds, epochs=epochs)
            return repeat.rate

        return warm_up(window, most_seconds=40 * window_seconds)

    def turn(self, seconds: float, epochs: int) -> Repeat:
        """Run epochs that are not timed, and directly after them those that are: so many, or more where they do not
        take long enough.
        """
        self.watch.run_about(LEAD_IN * seconds, epochs=max(1, round(LEAD_IN * epochs)))
        return self.watch.run_about(seconds, epochs=epochs)[0]

    def cold_turn(self) -> tuple[Repeat, float | None]:
        """Drop the peer's files from the page cache, and what it has read ahead of them, and time one epoch; return
        also which part of the files stayed.
        """
        self.peer.discard_prefetched()
        files = self.peer.files()
        drop_from_page_cache(files)
        resident = resident_share(files)
        return self.watch.run(1), resident

    def close(self) -> None:
        self.peer.close()

    def _try(self, workers: int, seconds: float) -> float:
        self.peer.open(workers)
        watch = Stopwatch(self.peer, self.job)
        try:
            watch.run(1)  # starts the workers
            return watch.run_about(seconds)[0].rate
        finally:
            self.peer.close()
