"""The engine whose batches are made by processes of their own: the same as :mod:`pipeline.cpu.cpu_engine`, without waiting
for this process's interpreter lock.

Threads share one interpreter: where a batch takes less than a few milliseconds, makers and whoever takes the batches
spend much of their time waiting for its lock. A worker (:mod:`pipeline.workers.worker_main`) makes whole batches in memory that is
shared; all that crosses is which samples, and that they are there.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from pipeline.damage import DamagedSamples
from pipeline.engine import IN_HAND, Options, Work
from pipeline.io.members import MemberReader
from pipeline.runtime.order_ahead import no_batch_within
from pipeline.workers.protocol import ANSWER, MOST, ORDER, Setup, Trouble, slot_shapes, write_work
from pipeline.workers.shared_memory import Bytes, SharedPool
from shards.errors import PetsegError

if TYPE_CHECKING:
    import torch

GRACE = 5.0  # seconds for a process that was killed to be gone
LOOK = 1.0  # seconds after which whoever waits for a batch looks whether all workers are still there
ENDED = "the loader's worker processes were ended; begin a new iteration"


class ProcessEngine:
    """Orders batches from workers, each of which makes one at a time.

    Nothing here runs in a thread of its own: ``prepare`` sends an order and returns at once, and ``finish`` waits for
    the answer. Orders lie ready for whichever worker is free, so that none of them waits. Only where orders of a stream
    that was dropped are still open, ``prepare`` waits for their answers first: their memory is the next ones'.

    Args:
        options: what the engine is built for.
        reader: whose tars are watched for changes; the workers open their own.
        batch_size: the most samples of a batch.
        processes: how many.
        prefetch: how many batches are made ahead, besides the one that waits to be handed over.
        timeout: seconds to wait for a batch.

    Raises:
        PetsegError: a process cannot be started.
    """

    name = "torch"
    makers = 0
    has_device_part = False

    def __init__(
        self, options: Options, reader: MemberReader, *, batch_size: int, processes: int, prefetch: int, timeout: float
    ) -> None:
        self._reader = reader
        self._timeout = timeout
        self._prefetch = prefetch
        self._pool = SharedPool(slot_shapes(options, batch_size), spare=prefetch + IN_HAND)
        self.batch_bytes: int | None = self._pool.bytes_each
        self._setup = pickle.dumps(Setup(split=reader.split, options=options, batch_size=batch_size))
        self._processes = processes
        self._crew: Crew | None = self._start()

    def prepare(self, work: Work) -> Ticket:
        """Order the batch.

        Raises:
            PetsegError: a worker has ended, or none answers within the timeout, or there is no memory left.
        """
        if self._crew is None or self._crew.ended:
            self._crew = self._start()
        self._crew.wait_for_room(self._prefetch, self._timeout)
        self._reader.watch(work.rows)
        slot, arrays = self._pool.take()
        write_work(work, arrays[2])
        return self._crew.order(slot, arrays, count=len(work), generation=self._reader.generation)

    def start(self, prepared: Any) -> Any:
        """Nothing can be done but wait."""
        return prepared

    def finish(self, started: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Wait for the batch that was ordered.

        Raises:
            DamagedSamples: some samples cannot be used; places in the batch.
            PetsegError: a worker has ended or failed, or none answers within the timeout.
        """
        import torch

        ticket = cast(Ticket, started)
        trouble = ticket.crew.wait_for(ticket, self._timeout)
        if trouble is not None:
            if trouble.damaged:
                raise DamagedSamples(trouble.damaged)
            raise PetsegError(trouble.error)
        images, masks, _ = ticket.arrays
        # The tensors must hold the lent arrays themselves, not views: see SharedPool.
        return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks)

    def close(self) -> None:
        """End the processes."""
        crew, self._crew = self._crew, None
        if crew is not None:
            crew.end()

    def _start(self) -> Crew:
        return Crew(self._setup, self._pool.descriptor, self._processes)


@dataclass(eq=False)
class Ticket:
    """An order that was sent.

    Attributes:
        crew: to whom.
        arrays: what the answer says is filled: pictures and masks; and the records.
        done: whether the answer is there.
        said: what the answer consists of so far.
    """

    crew: Crew
    arrays: tuple[Bytes, ...]
    done: bool = False
    said: list[bytes] = field(default_factory=list)


class Crew:
    """The workers of a loader and the socket that they all take orders from; ended when nobody holds it any more.

    If one of them ends, nobody knows which order it had taken: then all are ended.

    Args:
        setup: pickled: what they are told first.
        memory: file descriptor of the shared memory.
        count: how many.

    Attributes:
        ended: whether it is of no use any more.

    Raises:
        PetsegError: a process cannot be started.
    """

    def __init__(self, setup: bytes, memory: int, count: int) -> None:
        self.ended = False
        self._why = ENDED
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._members: list[Member] = []
        self._open: dict[int, Ticket] = {}  # by slot; held until they are answered, since a worker writes there
        self._message = bytearray(MOST)
        self._kill = weakref.finalize(self, _end, self._members, self._socket)
        with theirs:
            for _ in range(count):
                self._members.append(Member.start(setup, theirs.fileno(), memory))
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def order(self, slot: int, arrays: tuple[Bytes, ...], *, count: int, generation: int) -> Ticket:
        """Order the batch whose work is written in a slot.

        Raises:
            PetsegError: a worker has ended.
        """
        if self.ended:
            raise PetsegError(ENDED)
        ticket = Ticket(self, arrays)
        with self._whole():
            self._socket.send(ORDER.pack(slot, count, generation))
            self._open[slot] = ticket
        return ticket

    def wait_for(self, ticket: Ticket, timeout: float) -> Trouble | None:
        """Return what is wrong with a batch once it is answered; None: it is there.

        Raises:
            PetsegError: a worker has ended, or none answers within ``timeout`` seconds.
        """
        self._receive_until(lambda: ticket.done, timeout)
        return cast(Trouble, pickle.loads(b"".join(ticket.said))) if ticket.said else None

    def wait_for_room(self, most: int, timeout: float) -> None:
        """Return once at most so many orders are open, whoever they are for.

        Raises:
            PetsegError: a worker has ended, or none answers within ``timeout`` seconds.
        """
        self._receive_until(lambda: len(self._open) <= most, timeout)

    def _receive_until(self, enough: Callable[[], bool], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not enough():
            with self._whole():
                while not self._poll.poll(1000 * max(0.0, min(LOOK, deadline - time.monotonic()))):
                    self._look()
                    if time.monotonic() >= deadline:
                        raise no_batch_within(timeout)
                self._receive()

    def end(self) -> None:
        """End the processes; one that does not end within a few seconds is left behind."""
        self.ended = True
        self._kill()
        self._open.clear()  # nobody writes there any more

    def _receive(self) -> None:
        """Take a message; it belongs to some order, perhaps to one that nobody waits for any more."""
        length = self._socket.recv_into(self._message)
        if not length:
            raise EOFError
        slot, more = ANSWER.unpack_from(self._message)
        ticket = self._open[slot]
        if length > ANSWER.size:
            ticket.said.append(bytes(self._message[ANSWER.size : length]))
        if not more:
            ticket.done = True
            del self._open[slot]

    def _look(self) -> None:
        if any(member.has_ended() for member in self._members):
            raise EOFError

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        """Whatever interrupts a conversation, Ctrl-C too, ends it: nobody knows what was said and heard."""
        try:
            if self.ended:
                raise PetsegError(self._why)
            yield
        except (EOFError, OSError):
            epitaphs = [member.epitaph() for member in self._members if member.has_ended(within=0.1)]
            self.end()
            self._why = (
                f"a worker process of the loader ended ({epitaphs[0] if epitaphs else 'without a word'}); "
                "if memory ran out, use fewer processes or a smaller batch"
            )
            raise PetsegError(self._why) from None
        except PetsegError as error:
            self.end()
            self._why = str(error)  # batches that were ordered earlier are asked for later, and fail for this reason
            raise
        except BaseException:
            self.end()
            raise


@dataclass(frozen=True)
class Member:
    """One worker: its process, and what it writes to its outputs."""

    process: subprocess.Popen[bytes]
    log: IO[bytes]

    @classmethod
    def start(cls, setup: bytes, orders: int, memory: int) -> Member:
        """Start a worker; it is not waited for.

        Raises:
            PetsegError: it cannot be started.
        """
        log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        try:
            with tempfile.TemporaryFile() as said:  # a pipe would have to be written to until the worker reads
                said.write(setup)
                said.seek(0)
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "pipeline.workers.worker_main", str(orders), str(memory)],
                    stdin=said,
                    stdout=log,
                    stderr=log,
                    pass_fds=(orders, memory),
                    env=_environment(),
                    start_new_session=True,  # Ctrl-C reaches the loader's process alone, which ends it
                )
        except OSError as error:
            log.close()
            raise PetsegError(f"a worker process of the loader cannot be started: {error.strerror}") from None
        return cls(process, log)

    def has_ended(self, *, within: float = 0.0) -> bool:
        """Whether the process is gone, or is so soon."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=within)
        return self.process.returncode is not None

    def epitaph(self) -> str:
        """Say how the process ended, with the last line that it wrote."""
        code = self.process.returncode
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit {code}"
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").strip().splitlines()
        return f"{how}: {lines[-1]}" if lines else how


def _end(members: list[Member], connection: socket.socket) -> None:
    for member in members:
        member.process.kill()  # it holds nothing that would be left behind
    for member in members:
        with contextlib.suppress(subprocess.TimeoutExpired):
            member.process.wait(timeout=GRACE)
        member.log.close()
    connection.close()


def _environment() -> dict[str, str]:
    """Return ours, changed so that the worker finds this very package, and torch, if needed, keeps to one thread."""
    here = str(Path(__file__).parent.parent)
    paths = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
