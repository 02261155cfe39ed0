"""What the process of one loader does on command."""

import importlib
import pickle
from pathlib import Path

from bench.core.output_check import check_epoch, collect_reference
from bench.core.resources import drop_from_page_cache, resident_share
from bench.core.stopwatch import Stopwatch, warm_up
from bench.peers import PEERS
from bench.peers.job import Job
from bench.results.records import OutputCheck, Repeat

LEAD_IN = 0.2  # of a turn's length: epochs that are run before those that are timed


class LoaderServer:
    """One peer and what is done with it."""

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
        """Stop the peer."""
        self.peer.close()

    def _try(self, workers: int, seconds: float) -> float:
        self.peer.open(workers)
        watch = Stopwatch(self.peer, self.job)
        try:
            watch.run(1)  # starts the workers
            return watch.run_about(seconds)[0].rate
        finally:
            self.peer.close()
