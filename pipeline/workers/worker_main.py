"""A process that makes batches for a loader in another one: ``python -m pipeline.workers.worker_main SOCKET MEMORY < SETUP``.

Started by :mod:`pipeline.workers.process_engine` alone. It inherits two file descriptors: a socket, from which all workers of
a loader take orders, whoever is free, and which takes their answers (:mod:`pipeline.workers.protocol`); and the shared memory that
batches are put into. It ends when its loader's process does.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import sys
import threading
import time

from pipeline.choose_engine import make_host_engine
from pipeline.cpu.cpu_engine import HostEngine
from pipeline.damage import DamagedSamples
from pipeline.io.members import MemberReader
from pipeline.workers.protocol import ORDER, Setup, Trouble, answers, read_work, slot_shapes
from pipeline.workers.shared_memory import SlotMap
from shards.errors import PetsegError

LOOK = 5.0  # seconds between looks whether the loader's process is still there


class Worker:
    """Makes batches, one after the other."""

    def __init__(self, setup: Setup, memory: int) -> None:
        self._reader = MemberReader(setup.split)
        self._engine: HostEngine = make_host_engine(
            "torch", setup.options, reader=self._reader, batch_size=setup.batch_size, threads=1, makers=1
        )
        self._slots = SlotMap(memory, slot_shapes(setup.options, setup.batch_size))
        self._generation = 0

    def make(self, *, slot: int, count: int, generation: int) -> Trouble | None:
        """Make the batch whose work is in a slot, there; return what is wrong."""
        try:
            if generation != self._generation:
                self._reader.drop_changed()
                self._generation = generation
            self._reader.trim()
            images, masks, records = self._slots.arrays(slot)
            self._engine.fill(read_work(records, count), images, masks)
        except DamagedSamples as error:
            return Trouble(damaged=error.reasons)
        except PetsegError as error:
            return Trouble(damaged={}, error=str(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, the loader is told
            return Trouble(damaged={}, error=f"a worker process of the loader failed: {type(error).__name__}: {error}")
        return None


def serve(orders: socket.socket, worker: Worker) -> None:
    """Answer orders until nobody is at the other end."""
    while order := orders.recv(ORDER.size):
        slot, count, generation = ORDER.unpack(order)
        for message in answers(slot, worker.make(slot=slot, count=count, generation=generation)):
            orders.sendall(message)


def end_with(parent: int) -> None:
    """End this process when its parent has ended: a fork of that may still hold the other end of the socket."""
    while os.getppid() == parent:
        time.sleep(LOOK)
    os._exit(0)


def main() -> None:
    """Serve on the inherited descriptors."""
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    worker = Worker(pickle.load(sys.stdin.buffer), int(sys.argv[2]))
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the loader is gone, or has closed
        serve(socket.socket(fileno=int(sys.argv[1])), worker)


if __name__ == "__main__":
    main()
