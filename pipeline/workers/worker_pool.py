"""The worker processes of a loader, and the socket that connects them."""

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
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from pipeline.io.scratch import Bytes
from pipeline.runtime.request_queue import batch_timeout_error
from pipeline.workers.protocol import MAX_MESSAGE, NOTHING_TO_REPORT, REPLY, REQUEST, BatchReport
from shards.errors import PetsegError

KILL_SECONDS = 5.0  # for a process that was killed to be gone
CHECK_SECONDS = 1.0  # between checks whether all workers are still alive while a batch is waited for
ENDED = "the loader's worker processes were ended; start a new iteration"
PACKAGE_ROOT = Path(__file__).parents[2]  # the folder that holds the package ``pipeline``


@dataclass(eq=False)
class PendingBatch:
    """A request that was sent to a pool."""

    pool: "WorkerPool"
    arrays: tuple[Bytes, ...]  # images, masks, records; filled once the reply is complete
    done: bool = False  # whether the reply is complete
    parts: list[bytes] = field(default_factory=list)  # of the reply so far


class WorkerPool:
    """The workers of a loader and the socket that they take requests from; ended when nothing refers to it any more.

    If one of them ends, nobody knows which request it had taken: then all are ended.

    Its methods raise ``PetsegError`` when a worker cannot be started, has ended, or does not reply in time. ``setup``
    is a pickled ``WorkerSetup``, ``memory`` the file descriptor of the shared memory.
    """

    def __init__(self, setup: bytes, memory: int, count: int) -> None:
        self.ended = False
        self._reason = ENDED
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._workers: list[WorkerProcess] = []
        self._pending: dict[int, PendingBatch] = {}  # by slot; kept until the reply, since a worker writes there
        self._message = bytearray(MAX_MESSAGE)
        self._kill = weakref.finalize(self, _end, self._workers, self._socket)
        with theirs:
            for _ in range(count):
                self._workers.append(WorkerProcess.start(setup, theirs.fileno(), memory))
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def request(self, slot: int, arrays: tuple[Bytes, ...], *, count: int, generation: int) -> PendingBatch:
        """Request the batch whose work is written in a slot."""
        if self.ended:
            raise PetsegError(ENDED)
        batch = PendingBatch(self, arrays)
        try:
            self._socket.send(REQUEST.pack(slot, count, generation))
            self._pending[slot] = batch
        except BaseException as error:
            self._end_after(error)
            raise
        return batch

    def wait_for(self, batch: PendingBatch, timeout: float) -> BatchReport:
        """Return what there is to say of a batch once the reply is there."""
        deadline = time.monotonic() + timeout
        while not batch.done:
            self._receive(deadline, timeout)
        return cast(BatchReport, pickle.loads(b"".join(batch.parts))) if batch.parts else NOTHING_TO_REPORT

    def wait_for_room(self, most: int, timeout: float) -> None:
        """Return once at most ``most`` requests are pending, including those of a stream that was dropped."""
        deadline = time.monotonic() + timeout
        while len(self._pending) > most:
            self._receive(deadline, timeout)

    def end(self) -> None:
        """End the processes; one that does not end within a few seconds is left behind."""
        self.ended = True
        self._kill()
        self._pending.clear()  # nobody writes there any more

    def _receive(self, deadline: float, timeout: float) -> None:
        """Receive a message of any pending batch, possibly one that nobody waits for any more."""
        try:
            if self.ended:
                raise PetsegError(self._reason)
            while (length := self._message_length()) is None:
                self._wait_for_message(deadline, timeout)
            if not length:
                raise EOFError
        except BaseException as error:
            self._end_after(error)
            raise
        slot, more = REPLY.unpack_from(self._message)
        batch = self._pending[slot]
        if length > REPLY.size:
            batch.parts.append(bytes(self._message[REPLY.size : length]))
        if not more:
            batch.done = True
            del self._pending[slot]

    def _message_length(self) -> int | None:
        """Return the length of the message that was received, 0 at the end of the conversation; None: none is there."""
        try:
            return self._socket.recv_into(self._message, flags=socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def _wait_for_message(self, deadline: float, timeout: float) -> None:
        while not self._poll.poll(1000 * max(0.0, min(CHECK_SECONDS, deadline - time.monotonic()))):
            if any(worker.has_ended() for worker in self._workers):
                raise EOFError
            if time.monotonic() >= deadline:
                raise batch_timeout_error(timeout)

    def _end_after(self, error: BaseException) -> None:
        """End the pool: what interrupted a conversation, Ctrl-C included, leaves its state unknown.

        Raises ``PetsegError`` where that was the end of a worker.
        """
        if isinstance(error, EOFError | OSError):
            # A process closes its socket first, and is gone later: on a busy core, after seconds.
            deadline = time.monotonic() + KILL_SECONDS
            while not (ended := [worker for worker in self._workers if worker.has_ended()]):
                if time.monotonic() > deadline:
                    break
                time.sleep(0.01)
            report = ended[0].exit_report() if ended else "or has closed its connection: it has not told why"
            advice = "if memory ran out, use fewer processes or a smaller batch"
            if ended and ended[0].process.returncode == -signal.SIGBUS:
                advice = (
                    "a tar has become shorter, or its disk failed, while it was read: run petseg-shard verify; a new "
                    "iteration names the sample"
                )
            self.end()
            self._reason = f"a worker process of the loader ended ({report}); {advice}"
            raise PetsegError(self._reason) from None
        self.end()
        if isinstance(error, PetsegError):
            self._reason = str(error)  # raised again for batches that were requested earlier and are taken later


@dataclass(frozen=True)
class WorkerProcess:
    """A worker process, and the file that its output goes to."""

    process: subprocess.Popen[bytes]
    log: IO[bytes]

    @classmethod
    def start(cls, setup: bytes, connection: int, memory: int) -> "WorkerProcess":
        """Start a worker, without waiting for it; it finds this very package, and its torch uses one thread."""
        paths = [str(PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        try:
            with tempfile.TemporaryFile() as stdin:  # a pipe would have to be written to until the worker reads
                stdin.write(setup)
                stdin.seek(0)
                arguments = [str(connection), str(memory), str(os.getpid())]
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "pipeline.workers.worker_main", *arguments],
                    stdin=stdin,
                    stdout=log,
                    stderr=log,
                    pass_fds=(connection, memory),
                    env=environment,
                    start_new_session=True,  # Ctrl-C reaches the loader's process alone, which ends this one
                )
        except OSError as error:
            log.close()
            raise PetsegError(f"a worker process of the loader cannot be started: {error.strerror}") from None
        return cls(process, log)

    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self.process.poll() is not None

    def exit_report(self) -> str:
        """Return how the process ended, with the last line of its output."""
        code = self.process.returncode
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit {code}"
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").strip().splitlines()
        return f"{how}: {lines[-1]}" if lines else how


def _end(workers: list[WorkerProcess], connection: socket.socket) -> None:
    for worker in workers:
        worker.process.kill()  # it holds nothing that would be left behind
    for worker in workers:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(timeout=KILL_SECONDS)
        worker.log.close()
    connection.close()
