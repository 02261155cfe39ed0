"""A worker process: ``python -m pipeline.workers.worker_main SOCKET MEMORY < SETUP``.

Started by :mod:`pipeline.workers.worker_pool`. It inherits two file descriptors: a socket for requests and replies,
which all workers of a loader share, and the memory that batches are written to. It ends when the loader does.
"""

import contextlib
import os
import pickle
import socket
import sys
import threading
import time
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path

from pipeline.cpu.cpu_engine import CpuEngine
from pipeline.io.damage import DamagedSamples
from pipeline.io.members import MemberReader
from pipeline.workers.protocol import (
    NOTHING_TO_REPORT,
    REQUEST,
    BatchReport,
    WorkerSetup,
    read_work,
    reply_messages,
    slot_shapes,
)
from pipeline.workers.shared_memory import SlotMap
from shards.errors import PetsegError

CHECK_SECONDS = 1.0  # between checks whether the loader's process is still alive


class BatchWorker:
    """Makes batches, one after the other."""

    def __init__(self, setup: WorkerSetup, memory: int) -> None:
        # Of small images, and no others, reading costs enough to be worth a map.
        self._reader = MemberReader(setup.split, expendable=setup.options.stored_size is not None)
        self._engine = CpuEngine(replace(setup.options, threads=1), self._reader)
        self._slots = SlotMap(memory, slot_shapes(setup.options))
        self._generation = 0
        self._retries = Counter[str]()  # that were reported

    def make(self, *, slot: int, count: int, generation: int) -> BatchReport:
        """Make the batch whose work is in a slot, in place; return what there is to say of it."""
        report = self._make(slot=slot, count=count, generation=generation)
        if (remote := self._reader.files.remote) is not None and (new := remote.retries - self._retries):
            self._retries.update(new)
            return replace(report, retries=dict(new))
        return report

    def _make(self, *, slot: int, count: int, generation: int) -> BatchReport:
        try:
            if generation != self._generation:
                self._reader.files.drop_changed()
                self._generation = generation
            images, masks, records = self._slots.arrays(slot)
            self._engine.fill(read_work(records, count), images, masks)
        except DamagedSamples as error:
            return BatchReport(damaged=error.reasons)
        except PetsegError as error:
            return BatchReport(error=str(error))
        except Exception as error:  # noqa: BLE001 - reported to the loader, whatever it is
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(where.filename).name}, line {where.lineno}"
            text = f"a worker process of the loader failed: {type(error).__name__}: {error} ({place})"
            return BatchReport(error=text)
        return NOTHING_TO_REPORT


def serve(connection: socket.socket, worker: BatchWorker) -> None:
    """Reply to requests until the other end is closed."""
    while request := connection.recv(REQUEST.size):
        slot, count, generation = REQUEST.unpack(request)
        for message in reply_messages(slot, worker.make(slot=slot, count=count, generation=generation)):
            connection.sendall(message)


def never_preempt() -> None:
    """Wait for a free core when a request wakes this process, instead of taking that of the loader, which sends it.

    Where pixels are only copied, the workers are faster than the loader's process. See docs/performance.md.
    """
    with contextlib.suppress(OSError):  # some containers refuse it
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def exit_with(parent: int) -> None:
    """End this process when its parent has ended: a fork of that may still hold the other end of the socket."""
    while os.getppid() == parent:
        time.sleep(CHECK_SECONDS)
    os._exit(0)


def main() -> None:
    """Serve on the inherited descriptors."""
    # The parent's number comes from the parent, which may have ended before this process could ask for it.
    threading.Thread(target=exit_with, args=(int(sys.argv[3]),), daemon=True).start()
    setup: WorkerSetup = pickle.load(sys.stdin.buffer)
    if setup.options.storage == "raw" and setup.options.as_stored:
        never_preempt()
    worker = BatchWorker(setup, int(sys.argv[2]))
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the loader is gone, or has closed
        serve(socket.socket(fileno=int(sys.argv[1])), worker)


if __name__ == "__main__":
    main()
