"""A loader as a benchmark subject: opened, checked, warmed up, and timed; and what its process does on command."""

import gc
import importlib
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from bench.core.machine import drop_from_page_cache, resident_share, return_free_memory
from bench.core.output_check import check_epoch, collect_reference, judge
from bench.core.rounds import Subject
from bench.core.stopwatch import Stopwatch, warm_up
from bench.core.subject_process import SubjectProcess
from bench.peers import PEERS
from bench.peers.job import Job
from bench.peers.peer import Peer
from bench.results.records import OURS, LoaderLine, LoaderWork, OutputCheck, Repeat

WINDOW = 0.6  # of a turn's length: each window of the warm-up, and the trial of a number of workers
STAYED = 0.02  # part of the files: where more stays in the page cache than this, a cold line has a caveat


class LoaderServer:
    """Loaders of one peer in a process of their own, one at a time, and what is done with them there."""

    def __init__(self, imports: tuple[str, ...]) -> None:
        for module in imports:
            importlib.import_module(module)
        self._peer: Peer | None = None

    def convert(self, job: Job) -> None:
        """Bring the images into the peer's own format, unless that is done."""
        PEERS[job.peer](job).prepare()

    def choose_workers(self, job: Job, seconds: float) -> int:
        """Return the number of workers that is fastest in short trials."""
        rates = {}
        for count in PEERS[job.peer](job).worker_counts():
            self.open(replace(job, workers=count))
            self._watch.run(1)  # starts the workers
            rates[count] = self._watch.run_about(seconds).rate
            self.close()
        return max(rates, key=lambda count: rates[count], default=0)

    def open(self, job: Job) -> None:
        self.close()
        self.convert(job)
        self._peer, self._job = PEERS[job.peer](job), job
        self._peer.open(job.workers)
        self._watch = Stopwatch(self._peer, job)

    def reference(self, job: Job, path: Path) -> None:
        """Write what a loader delivers in epoch 0, as what others must deliver."""
        self.open(job)
        path.write_bytes(pickle.dumps(collect_reference(self.opened.epoch(0), job)))
        self.close()

    def check(self, path: Path) -> OutputCheck:
        return check_epoch(self.opened.epoch(0), self._job, pickle.loads(path.read_bytes()))

    def turn(self, seconds: float, windows: int | None) -> tuple[Repeat, int, bool]:
        """Run so many windows, or until the speed no longer rises, and directly after them those epochs that are timed.

        Return the repeat, after how many windows the speed no longer rose, and whether it was steady.
        """
        window, steady = WINDOW * seconds, True
        if windows is None:
            windows, steady = warm_up(lambda: self._watch.run_about(window).rate, most_seconds=40 * window)
            windows = max(0, windows - 2)
        else:
            self._watch.run(1)  # starts the workers
            for _ in range(windows):
                self._watch.run_about(window)
        return self._watch.run_about(seconds), windows, steady

    def cold_turn(self) -> tuple[Repeat, float | None]:
        """Start the workers by one epoch, drop the peer's files from the page cache and what it has read ahead of them,
        and time one epoch; return also which part of the files stayed.
        """
        self._watch.run(1)
        self.opened.discard_prefetched()
        files = self.opened.files()
        drop_from_page_cache(files)
        resident = resident_share(files)
        return self._watch.run(1), resident

    def rates_from_opening(self, job: Job, epochs: int) -> list[float]:
        """Return images/s of each epoch of a new loader, the opening in the first."""
        found, last = list[float](), time.perf_counter()
        self.open(job)
        for _ in range(epochs):
            images, now = self._watch.run(1).images, time.perf_counter()
            found.append(images / (now - last))
            last = now
        return found

    @property
    def opened(self) -> Peer:
        assert self._peer is not None
        return self._peer

    def close(self) -> None:
        """Close the loader, and give its memory back."""
        if self._peer is not None:
            self._peer.close()
            self._peer = None
            del self._watch
            gc.collect()
            return_free_memory()


class Preparations:
    """What loaders of the same kind share: what they must deliver, made by petseg's in a process of its own, which ends
    with :meth:`close`, and the number of workers that is fastest.
    """

    def __init__(self, folder: Path, trial: dict[str, Any]) -> None:
        """``trial`` is how jobs are changed to find the number of workers."""
        self._folder, self._process, self._workers = folder, loader_process(PEERS[OURS]), dict[Job, int]()
        self._trial = trial

    def reference(self, job: Job) -> Path:
        """Return the file with what this job's storage should deliver."""
        path = self._folder / f"reference-{job.storage}-{job.mask}-{job.augment}.pickle"
        if not path.exists():
            plain = replace(job, peer=OURS, engine="auto", device="cpu", workers=0)
            self._process.ask("reference", job=plain, path=path)
        return path

    def with_workers(self, job: Job, process: SubjectProcess, seconds: float) -> Job:
        """Return a job with its number of workers: what is requested, or what was fastest in the trial."""
        trial = replace(job, **self._trial)
        if not job.workers and trial not in self._workers:
            self._workers[trial] = process.ask("choose_workers", job=trial, seconds=seconds)
        return replace(job, workers=job.workers or self._workers[trial])

    def close(self) -> None:
        self._process.close()


class LoaderSubject(Subject):
    """One loader on one storage; its output is checked before its first turn, its warm-up is measured in that."""

    process: SubjectProcess

    def __init__(self, job: Job, *, process: SubjectProcess, preparations: Preparations, seconds: float) -> None:
        super().__init__(job.name, process)
        self.peer, self.job, self.seconds = PEERS[job.peer], job, seconds
        self.work = msgspec.convert(job, LoaderWork, from_attributes=True)
        self._preparations, self._check, self._peaks = preparations, list[OutputCheck](), list[int]()
        self._windows: int | None = None
        self._steady, self._resident = True, 0.0

    def open(self) -> None:
        """Open the loader; the first time choose its number of workers before, and check an epoch."""
        first = not self._check
        if first:
            self.job = self._preparations.with_workers(self.job, self.process, WINDOW * self.seconds)
        self.process.peak_memory_bytes = 0  # converting and trials do not count
        self.process.ask("open", job=self.job)
        if first:
            self._check.append(self.process.ask("check", path=self._preparations.reference(self.job)))
            judge(self._check[0], image_differs=any(caveat.image for caveat in self.peer.caveats_on(self.job)))

    def turn(self) -> Repeat:
        """Time complete epochs for about as long as is wanted; of a cold cache one."""
        repeat: Repeat
        if self.work.cache == "cold":
            repeat, resident = self.process.ask("cold_turn", timed=True)
            self._resident = max(self._resident, resident or 0.0)
        else:
            repeat, self._windows, steady = self.process.ask(
                "turn", timed=True, seconds=self.seconds, windows=self._windows
            )
            self._steady = self._steady and steady
        self._peaks.append(self.process.peak_memory_bytes)
        return repeat

    def close(self) -> None:
        if self.process.popen is not None:
            self.process.ask("close")

    def line(self) -> LoaderLine:
        """Return what was found. Memory is the least of its peaks: in others, earlier loaders left more behind."""
        return LoaderLine(
            name=self.name, repeats=tuple(self.repeats), peak_memory_bytes=min(self._peaks), work=self.work,
            workers=self.job.workers, caveats=tuple(self._caveats()), check=self._check[0], steady=self._steady,
        )  # fmt: skip

    def _caveats(self) -> Iterator[str]:
        yield from (caveat.text for caveat in self.peer.caveats_on(self.job))
        if self.work.cache == "cold" and self.peer.reads_ahead:
            yield "reads ahead of being asked, so its first batches were read before the cache was dropped"
        if self._resident > STAYED:
            yield f"up to {self._resident:.0%} of its files stayed in the page cache"
        if self.job.handicap:
            yield f"slowed on purpose by {self.job.handicap:.0%} (--handicap)"


def loader_process(peer: type[Peer]) -> SubjectProcess:
    """Return a process for loaders of one peer."""
    imports = ("torch.utils.data", *filter(None, [peer.needs]))
    return SubjectProcess("bench.core.loader_subject:LoaderServer", imports=imports)
