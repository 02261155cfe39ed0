"""Starts the process of a benchmark subject, sends it commands, and survives whatever it does."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import msgspec

from bench.core.output_check import CheckError
from bench.core.resources import memory_bytes, watch_memory
from bench.core.rounds import PartSeconds
from bench.peers.job import Job
from petseg.host.openmp import configure_openmp

PATIENCE_SECONDS = 300.0  # for one command; converting a data set may take that long


class TrainJob(msgspec.Struct, frozen=True, kw_only=True):
    """What a process that trains does: model, precision, device and engine as ``petseg-train`` names them; a size or
    batch size of 0 is the recipe's.
    """

    model: str
    precision: str
    device: str
    size: int
    batch_size: int
    shards: str
    split: str
    engine: str
    seed: int


class SubjectProcess:
    """A process of a benchmark subject; a context manager that ends it.

    Attributes:
        peak_memory_bytes: the most that the process with its workers took during a command.

    Raises:
        CheckError: from :meth:`start` and :meth:`ask`: it failed, died, or took too long; the message says which.
    """

    def __init__(self, job: Job | TrainJob, *, parts: PartSeconds | None = None) -> None:
        self.job, self.peak_memory_bytes, self.patience = job, 0, PATIENCE_SECONDS
        self._parts = parts or PartSeconds()
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._connection, theirs = multiprocessing.Pipe()
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "bench.core.server", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            pass_fds=(theirs.fileno(),),
            env=environment_for(job),
            start_new_session=True,  # its workers end with it, and Ctrl-C reaches only the benchmark
        )
        theirs.close()

    def __enter__(self) -> SubjectProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Hand over the job and wait until the libraries are imported."""
        with self._parts.part("start"):
            self._send("start", {"job": self.job})

    def ask(self, command: str, *, timed: bool = False, **arguments: Any) -> Any:
        """Run one command and return its answer.

        The memory of the process tree is watched meanwhile. Of what is timed it is read before and after only: a
        reading stops each of the processes for milliseconds, which costs the fast ones up to a tenth.
        """
        with self._parts.part(command), self._read_memory() if timed else self._watch_memory():
            return self._send(command, arguments)

    def hang_up(self) -> None:
        """Let the process end, and do not wait for it; :meth:`close` does."""
        self._connection.close()

    def close(self) -> None:
        """End the process and its workers: by hanging up first, then killed."""
        self.hang_up()
        try:
            self.popen.wait(timeout=5)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.popen.pid, 9)
            self.popen.wait()
        self._log.close()

    @contextmanager
    def _watch_memory(self) -> Iterator[None]:
        with watch_memory(self.popen.pid) as peak:
            yield
        self.peak_memory_bytes = max(self.peak_memory_bytes, peak.bytes)

    @contextmanager
    def _read_memory(self) -> Iterator[None]:
        before = memory_bytes(self.popen.pid)
        yield
        self.peak_memory_bytes = max(self.peak_memory_bytes, before, memory_bytes(self.popen.pid))

    def _send(self, command: str, arguments: dict[str, Any]) -> Any:
        try:
            self._connection.send((command, arguments))
            if not self._connection.poll(self.patience):
                raise CheckError(f"{command}: no answer within {self.patience:.0f} s")
            succeeded, answer = self._connection.recv()
        except (EOFError, OSError):
            raise CheckError(self._death()) from None
        if not succeeded:
            raise CheckError(answer)
        return answer

    def _death(self) -> str:
        """Say how the process ended, with the last line that it wrote."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(timeout=5)
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f"its process ended (exit {self.popen.returncode}){': ' + lines[-1] if lines else ''}"


def environment_for(job: Job | TrainJob) -> dict[str, str]:
    """Return the environment of a subject's process: this one's, and for training what ``petseg-train`` sets."""
    environment = dict(os.environ)
    if isinstance(job, TrainJob):
        configure_openmp(environment)
    return environment
