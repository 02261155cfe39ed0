"""The process that one loader runs in: takes commands from the driver, one JSON object a line, and answers each.

``python -m bench.server FD`` reads from standard input and answers on the inherited file descriptor FD, so that what
libraries print cannot get between. The commands are the public methods of :class:`Server` and of
:class:`bench.train_server.TrainServer`.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from bench import cache
from bench.check import Reference, check_epoch, collect_reference
from bench.consumer import consume
from bench.job import Job
from bench.peers import make_peer, preload
from bench.process_tree import memory_bytes
from bench.timing import Stopwatch
from bench.train_job import TrainJob
from bench.trials import climb
from bench.warmup import MAX_SECONDS, WINDOW_SECONDS, is_steady
from shards.errors import PetsegError

TRIAL_SECONDS = 0.3  # for each number of workers that is tried


class Server:
    """One peer and what is done with it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.peer = make_peer(job)
        self.watch = self._stopwatch()
        self.workers = job.workers
        self.epoch_seconds = 0.0

    def prepare(self) -> dict[str, Any]:
        """Convert, choose the number of workers, open."""
        started = time.perf_counter()
        self.peer.prepare()
        seconds = time.perf_counter() - started
        counts = self.peer.worker_counts() if not self.job.workers else ()
        tried = climb(counts, self._trial)
        if tried:
            self.workers = max(tried, key=lambda count: tried[count])
        self.peer.open(self.workers)
        self.watch = self._stopwatch()
        found = {str(count): rate for count, rate in tried.items()}
        return {"prepare_seconds": seconds, "workers": self.workers, "tried": found}

    def reference(self, job: dict[str, Any], folder: str) -> dict[str, Any]:
        """Keep what a peer, which is opened for this alone, delivers in epoch 0 as what others must deliver."""
        wanted = msgspec.convert(job, Job)
        peer = make_peer(wanted)
        peer.open(wanted.workers)
        try:
            collect_reference(peer.epoch(0), wanted.samples, wanted.seed).save(Path(folder))
        finally:
            peer.close()
        return {}

    def check(self, folder: str) -> dict[str, Any]:
        """Compare epoch 0 with a reference."""
        reference = Reference.load(Path(folder))
        found = check_epoch(self.peer.epoch(0), self.job.samples, self.job.size, reference)
        built: dict[str, Any] = msgspec.to_builtins(found)
        return built

    def warm_up(self) -> dict[str, Any]:
        """Run until the speed no longer rises; return how long that took and how long an epoch takes."""
        started = time.perf_counter()
        rates: list[float] = []
        epochs = 1
        while not is_steady(rates) and time.perf_counter() - started < MAX_SECONDS:
            window, epochs = self.watch.run_about(WINDOW_SECONDS, epochs=epochs)
            rates.append(window.rate)
        self.epoch_seconds = self.job.samples / rates[-1]
        return {
            "seconds": time.perf_counter() - started,
            "steady": is_steady(rates),
            "epoch_seconds": self.epoch_seconds,
        }

    def turn(self, epochs: int, lead_in: int) -> dict[str, Any]:
        """Run some epochs that are not timed, and directly after them those that are."""
        self.watch.run(lead_in)
        built: dict[str, Any] = msgspec.to_builtins(self.watch.run(epochs))
        return built

    def cold_turn(self) -> dict[str, Any]:
        """Drop the peer's files from the page cache, and what it has read ahead of them, and time one epoch."""
        getattr(self.peer, "rest", lambda: None)()
        files = self.peer.files()
        cache.drop(files)
        left = cache.resident(files)
        built: dict[str, Any] = msgspec.to_builtins(self.watch.run(1))
        return {"repeat": built, "resident": left}

    def consume(self, rate: float, seconds: float) -> dict[str, Any]:
        """Let a consumer of ``rate`` pictures/s take whole epochs for about ``seconds``."""
        epochs = max(1, round(seconds / max(self.epoch_seconds, self.job.samples / rate)))
        return consume(self.peer, self.job, rate=rate, epochs=epochs, first_epoch=self.watch.skip(epochs))

    def soak(self, epochs: int, seconds: float) -> dict[str, Any]:
        """Run many epochs, no longer than so many seconds, and look at this process's memory after each."""
        started = time.perf_counter()
        found: list[int] = []
        while len(found) < epochs and (not found or time.perf_counter() - started < seconds):
            self.watch.run(1)
            found.append(memory_bytes(os.getpid()))
        return {"memory_bytes": found, "prefetch": getattr(self.peer, "prefetch", lambda: 0)()}

    def close(self) -> None:
        """Stop the peer."""
        self.peer.close()

    def _trial(self, workers: int) -> float:
        self.peer.open(workers)
        watch = self._stopwatch()
        try:
            watch.run(1)  # starts the workers
            window, _ = watch.run_about(TRIAL_SECONDS)
            return window.rate
        finally:
            self.peer.close()

    def _stopwatch(self) -> Stopwatch:
        moved = getattr(self.peer, "moved_per_picture", lambda: 0.0)()
        return Stopwatch(self.peer, self.job, moved_per_picture=moved)


def main() -> None:
    """Serve until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's business; it ends us
    answers = os.fdopen(int(sys.argv[1]), "w")
    os.dup2(2, 1)  # what libraries print goes to the log
    server: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any]
        try:
            if server is None:
                server = _make_server(request)
                answer = {}
            else:
                answer = getattr(server, request["do"])(**request.get("with", {}))
            answer = {"ok": answer}
        except PetsegError as error:
            answer = {"error": str(error)}
        except Exception as error:  # noqa: BLE001 - whatever a peer raises is told, and the others run on
            text = str(error).strip().splitlines()
            answer = {"error": f"{type(error).__name__}: {text[0] if text else ''}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    if server is not None:
        server.close()
    leave()


def leave() -> NoReturn:
    """End this process without taking the interpreter apart: with torch and DALI in it that takes up to a second.

    What libraries have registered to be done at the end is done: files in shared memory would be left behind otherwise.
    """
    atexit._run_exitfuncs()
    os._exit(0)


def _make_server(request: dict[str, Any]) -> Any:
    if "train" in request:
        from bench.train_server import TrainServer

        return TrainServer(msgspec.convert(request["train"], TrainJob))
    job = msgspec.convert(request["job"], Job)
    preload(job.peer)
    return Server(job)


if __name__ == "__main__":
    main()
