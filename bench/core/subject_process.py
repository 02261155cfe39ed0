"""The process of a benchmark subject, seen from both sides: commands go there, results or errors come back.

Commands are the public methods of the class that :data:`SERVERS` names for the process's job.
"""

import atexit
import contextlib
import multiprocessing
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any, NoReturn, TypeAlias

from bench.core.output_check import CheckError
from bench.core.resources import memory_bytes, watch_memory
from bench.core.rounds import Subject
from bench.peers.job import Job
from bench.settings import TrainSettings
from petseg.host.openmp import configure_openmp
from shards.build.options import PackOptions
from shards.errors import PetsegError

PATIENCE_SECONDS = 300.0  # for one command; converting a data set may take that long


@dataclass(frozen=True)
class TrainJob:
    """What a process that trains does."""

    model: str
    precision: str
    settings: TrainSettings


@dataclass(frozen=True)
class PackJob:
    """What a process that packs does: a set of so many images, in a folder ``out``."""

    source: Path
    options: PackOptions
    workers: int
    out: Path
    images: int


AnyJob: TypeAlias = Job | TrainJob | PackJob
SERVERS = {  # imported where they are needed: that of training needs torch
    Job: "bench.core.loader_subject:LoaderServer",
    TrainJob: "bench.core.train_server:TrainServer",
    PackJob: "bench.build_benchmark:PackServer",
}


class ProcessSubject(Subject):
    """A subject whose work is done in a process of its own, which runs :func:`serve`.

    ``peak_memory_bytes`` is the most that the process with its workers took during a command. :meth:`start` and
    :meth:`ask` raise :class:`CheckError` where it failed, died, or took too long; the message says which.
    """

    def __init__(self, name: str, job: AnyJob) -> None:
        super().__init__(name)
        self.job, self.peak_memory_bytes, self.patience = job, 0, PATIENCE_SECONDS
        self.popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process, and wait until it has imported its libraries."""
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._connection, theirs = multiprocessing.Pipe()
        program = f"from {__name__} import serve; serve({theirs.fileno()})"
        self.popen = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
            pass_fds=(theirs.fileno(),), env=environment_for(self.job),
            start_new_session=True,  # its workers end with it, and Ctrl-C reaches only the benchmark
        )  # fmt: skip
        theirs.close()
        self._send("start", {"job": self.job})

    def ask(self, command: str, *, timed: bool = False, **arguments: Any) -> Any:
        """Run one command and return its answer.

        The memory of the process tree is watched meanwhile. Of what is timed it is read before and after only: a
        reading stops each of the processes for milliseconds, which costs the fast ones up to a tenth.
        """
        assert self.popen is not None
        interval = PATIENCE_SECONDS if timed else 0.05 if isinstance(self.job, PackJob) else 0.25
        with watch_memory(self.popen.pid, every=interval) as readings:
            answer = self._send(command, arguments)
        if timed:
            readings.append(memory_bytes(self.popen.pid))
        self.peak_memory_bytes = max(self.peak_memory_bytes, *readings)
        return answer

    def close(self) -> None:
        """End the process and its workers: by hanging up first, then killed."""
        if self.popen is None:
            return
        self._connection.close()
        try:
            self.popen.wait(timeout=5)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.popen.pid, 9)
            self.popen.wait()
        self._log.close()
        self.popen = None

    def _send(self, command: str, arguments: dict[str, Any]) -> Any:
        assert self.popen is not None
        try:
            self._connection.send((command, arguments))
            if not self._connection.poll(self.patience):
                raise CheckError(f"{command}: no answer within {self.patience:.0f} s")
            succeeded, answer = self._connection.recv()
        except (EOFError, OSError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(timeout=5)
            self._log.seek(0)
            last = self._log.read().decode(errors="replace").strip().splitlines()[-1:]
            raise CheckError(": ".join([f"its process ended (exit {self.popen.returncode})", *last])) from None
        if not succeeded:
            raise CheckError(answer)
        return answer


def environment_for(job: AnyJob) -> dict[str, str]:
    """Return the environment of a subject's process: this one's, and for training what ``petseg-train`` sets."""
    environment = dict(os.environ)
    if isinstance(job, TrainJob):
        configure_openmp(environment)
    return environment


def serve(descriptor: int) -> NoReturn:
    """Answer commands on an inherited connection until its other end is closed, and leave."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the benchmark's business; it ends this process
    connection, server = Connection(descriptor), None
    with contextlib.suppress(EOFError, OSError):
        while True:
            command, arguments = connection.recv()
            answer: tuple[bool, Any]
            try:
                if server is None:
                    job = arguments["job"]
                    server, answer = pkgutil.resolve_name(SERVERS[type(job)])(job), (True, None)
                else:
                    answer = True, getattr(server, command)(**arguments)
            except PetsegError as error:
                answer = False, str(error)
            except Exception as error:  # noqa: BLE001 - whatever a peer raises is reported, and the others run on
                answer = False, f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            connection.send(answer)
    if server is not None:
        server.close()
    leave()


def leave() -> NoReturn:
    """End this process without finalizing the interpreter: with torch and DALI in it that takes up to a second.

    What libraries have registered to be done at exit is done: files in shared memory would be left behind otherwise.
    """
    atexit._run_exitfuncs()
    os._exit(0)
