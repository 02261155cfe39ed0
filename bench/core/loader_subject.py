"""A loader as a benchmark subject: opened, checked, warmed up, and timed; and what its process does on command."""

import gc
import importlib
import math
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import msgspec
from msgspec.structs import replace

from bench.core.machine import drop_from_page_cache, resident_share, return_free_memory
from bench.core.output_check import CheckError, check_epoch, collect_reference, judge
from bench.core.rounds import Subject
from bench.core.stopwatch import next_window, time_batches, warm_up
from bench.core.subject_process import SubjectProcess
from bench.peers import PEERS
from bench.peers.peer import Delivered, Job, Peer
from bench.results.records import OURS, LoaderLine, LoaderWork, OutputCheck, Repeat

WINDOW = 0.6  # of a turn's length: each window of the warm-up, and the trial of a number of workers
NEAR = 0.7  # of the fastest trial: numbers of workers that are tried once more
STAYED = 0.02  # part of the files: where more stays in the page cache than this, a cold line has a caveat


class LoaderServer:
    """Loaders of one peer in a process of their own, one at a time, and what is done with them there."""

    peer: Peer  # while one is open

    def __init__(self, imports: tuple[str, ...]) -> None:
        self._workers = dict[Job, int]()
        for module in imports:
            importlib.import_module(module)

    def convert(self, job: Job) -> None:
        """Bring the images into the peer's own format, unless that is done."""
        PEERS[job.peer](job).prepare()

    def choose_workers(self, job: Job, seconds: float) -> int:
        """Return the number of workers that is fastest in short trials, and remember it.

        These are of evaluation with one-hot masks and a warm cache, for all lines of a storage. Numbers that come near
        the fastest one are tried once more, and their better trial counts: whatever else runs can only slow one down.
        """
        trial = replace(job, augment=False, mask="onehot", cache="warm")
        if trial not in self._workers:
            counts = PEERS[job.peer](trial).worker_counts()
            rates = {count: self._trial(replace(trial, workers=count), seconds) for count in counts}
            near = [count for count in reversed(counts) if rates[count] >= NEAR * max(rates.values())]
            for count in near if len(near) > 1 else ():
                rates[count] = max(rates[count], self._trial(replace(trial, workers=count), seconds))
            self._workers[trial] = max(rates, key=lambda count: rates[count], default=0)
        return self._workers[trial]

    def _trial(self, job: Job, seconds: float) -> float:
        self.open(job)
        self.run(1)  # starts the workers
        rate = self.run_about(seconds).rate
        self.close()
        return rate

    def open(self, job: Job) -> None:
        self.close()
        self.convert(job)
        peer = PEERS[job.peer](job)
        peer.open()
        self.use(peer, job)

    def use(self, peer: Peer, job: Job) -> None:
        """Take a loader that is open as the one that is measured."""
        self.peer, self.job, self._images, self._copied = peer, job, 0, 0
        self._next_epoch = 1  # epoch 0 is the one that is checked
        self._last = 1, math.inf  # epochs and seconds of the last window

    def reference(self, job: Job, path: Path) -> None:
        """Write what a loader delivers in epoch 0, as what others must deliver."""
        self.open(job)
        path.write_bytes(pickle.dumps(collect_reference(self.peer.epoch(0), job)))
        self.close()

    def check(self, path: Path) -> OutputCheck:
        return check_epoch(self.peer.epoch(0), self.job, pickle.loads(path.read_bytes()))

    def turn(self, seconds: float, windows: int | None) -> tuple[Repeat, int | None, bool, float]:
        """Run so many windows, or until the speed no longer rises, and directly after them those epochs that are timed.

        With a cold cache: start the workers by one epoch, drop the peer's files from the page cache and what it has
        read ahead of them, and time one epoch. Return the repeat, after how many windows the speed no longer rose,
        whether it was steady, and which part of the files stayed in the page cache.
        """
        window, steady = WINDOW * seconds, True
        if self.job.cache == "cold":
            self.run(1)
            self.peer.discard_prefetched()
            files = self.peer.files()
            drop_from_page_cache(files)
            resident = resident_share(files) or 0.0
            return self.run(1), None, steady, resident
        if windows is None:
            windows, steady = warm_up(lambda: self.run_about(window).rate, most_seconds=40 * window)
            windows = max(0, windows - 2)
        else:
            self.run(1)  # starts the workers
            for _ in range(windows):
                self.run_about(window)
        return self.run_about(seconds), windows, steady, 0.0

    def rates_from_opening(self, job: Job, epochs: int) -> list[float]:
        """Return images/s of each epoch of a new loader, the opening in the first."""
        found, last = list[float](), time.perf_counter()
        self.open(job)
        for _ in range(epochs):
            images, now = self.run(1).images, time.perf_counter()
            found.append(images / (now - last))
            last = now
        return found

    def run(self, epochs: int) -> Repeat:
        """Run some epochs and return what they cost. Each batch's last pixels are read, so that a loader cannot deliver
        promises. An epoch of another length is a :class:`CheckError`.
        """
        cuda = self.job.device == "cuda"
        moved, self._copied = self.peer.moved_per_image() if cuda else 0.0, 0

        def use(batch: Delivered) -> int:
            for tensor in (batch.image, batch.mask):
                if not cuda:
                    int(tensor.numpy()[(-1,) * tensor.ndim])  # not through torch, which takes longer than some loaders
                elif not tensor.is_cuda:  # from pinned memory without waiting, else as it comes
                    tensor.to("cuda", non_blocking=True)
                    self._copied += tensor.numel() * tensor.element_size()
            valid = int((batch.index >= 0).sum())
            self._images += valid
            return valid

        repeat = time_batches(self._epochs(epochs), use, cuda=cuda, moved=lambda images: images * moved + self._copied)
        self._last = epochs, repeat.seconds
        return repeat

    def run_about(self, seconds: float) -> Repeat:
        """Run as many epochs as take ``seconds`` by the last window, or more of them until they take at least half of
        it; return what the last window cost. Of a shorter one too much may have been ready beforehand.
        """
        while True:
            window = self.run(next_window(*self._last, wanted=seconds))
            if window.seconds >= seconds / 2:
                return window

    def _epochs(self, count: int) -> Iterator[Delivered]:
        for number in range(self._next_epoch, self._next_epoch + count):
            began, before = time.perf_counter(), self._images
            self._next_epoch = number + 1
            yield from self.peer.epoch(number)
            if (images := self._images - before) != self.job.samples:
                raise CheckError(f"an epoch had {images} samples, expected {self.job.samples}")
            if self.job.handicap:  # what is missing in speed
                time.sleep((time.perf_counter() - began) * self.job.handicap / (1 - self.job.handicap))

    def close(self) -> None:
        """Close the loader, and give its memory back."""
        if hasattr(self, "peer"):
            self.peer.close()
            del self.peer
            gc.collect()
            return_free_memory()


class LoaderSubject(Subject):
    """One loader on one storage; its output is checked before its first turn, its warm-up is measured in that."""

    process: SubjectProcess

    def __init__(self, job: Job, *, process: SubjectProcess, ours: SubjectProcess, seconds: float) -> None:
        """``ours`` is where petseg's loader delivers what others must deliver."""
        super().__init__(job.name, process)
        self.peer, self.job, self.seconds = PEERS[job.peer], job, seconds
        self.work = msgspec.convert(job, LoaderWork, from_attributes=True)
        self._ours, self._check, self._peaks = ours, list[OutputCheck](), list[int]()
        self._windows: int | None = None
        self._steady, self._resident = True, 0.0

    def open(self) -> None:
        """Open the loader; the first time choose its number of workers before, and check an epoch."""
        job, first = self.job, not self._check
        if first and not job.workers:
            workers = self.process.ask("choose_workers", job=job, seconds=WINDOW * self.seconds)
            self.job = job = replace(job, workers=workers)
        self.process.peak_memory_bytes = 0  # converting and trials do not count
        self.process.ask("open", job=job)
        if first:
            reference = Path(job.work).with_name(f"reference-{job.storage}-{job.mask}-{job.augment}.pickle")
            if not reference.exists():
                plain = replace(job, peer=OURS, engine="auto", device="cpu", workers=0)
                self._ours.ask("reference", job=plain, path=reference)
            self._check.append(self.process.ask("check", path=reference))
            judge(self._check[0], image_differs=any(caveat.image for caveat in self.peer.caveats_on(job)))

    def turn(self) -> Repeat:
        """Time complete epochs for about as long as is wanted; of a cold cache one."""
        repeat, self._windows, steady, resident = self.process.ask(
            "turn", timed=True, seconds=self.seconds, windows=self._windows
        )
        self._steady, self._resident = self._steady and steady, max(self._resident, resident)
        self._peaks.append(self.process.peak_memory_bytes)
        return cast(Repeat, repeat)

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
