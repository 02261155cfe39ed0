"""Starts the process of a peer, hands it commands, and survives whatever it does."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from typing import IO, Any

import msgspec

from bench.check import CheckError
from bench.job import Job
from bench.parts import Parts
from bench.process_tree import memory_bytes, watch_memory
from bench.train_job import TrainJob
from petseg.host.openmp import configure_openmp

PATIENCE_SECONDS = 300.0  # for one command; converting a data set may take that long


class PeerProcess:
    """One peer in a process of its own; a context manager that ends it.

    Attributes:
        peak_memory_bytes: the most that the process with its workers took during a command.
        parts: how long it took to start, and each kind of command.

    Raises:
        CheckError: from :meth:`start` and :meth:`ask`: the peer failed, died, or took too long; the message says which.
    """

    def __init__(self, job: Job | TrainJob, *, patience: float = PATIENCE_SECONDS) -> None:
        self.job = job
        self.peak_memory_bytes = 0
        self.parts = Parts()
        self._patience = patience
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        reading, writing = os.pipe()
        self._answers = os.fdopen(reading, "rb", buffering=0)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.server", str(writing)],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            pass_fds=(writing,),
            env=environment_for(type(job)),
            start_new_session=True,  # its workers end with it, and Ctrl-C reaches us alone
        )
        os.close(writing)

    def __enter__(self) -> PeerProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Hand over the job and wait until the libraries are imported; the context manager does it on entering."""
        kind = "train" if isinstance(self.job, TrainJob) else "job"
        with self.parts.of("start"):
            self._send({kind: msgspec.to_builtins(self.job)})

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Run one command and return its answer; the tree's memory is watched meanwhile."""
        with self.parts.of(do), watch_memory(self._process.pid) as peak:
            answer = self._send({"do": do, "with": arguments})
        self.peak_memory_bytes = max(self.peak_memory_bytes, peak.bytes)
        return answer

    def ask_unwatched(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Run one command and return its answer; the tree's memory is looked at before and after, not meanwhile.

        For what is timed: a look stops each of the processes for milliseconds, which costs the fast ones up to a tenth.
        """
        with self.parts.of(do):
            before = memory_bytes(self._process.pid)
            answer = self._send({"do": do, "with": arguments})
            self.peak_memory_bytes = max(self.peak_memory_bytes, before, memory_bytes(self._process.pid))
        return answer

    def hang_up(self) -> None:
        """Ask the process to end, and do not wait for it; :meth:`close` does."""
        with contextlib.suppress(OSError):
            if self._process.stdin:
                self._process.stdin.close()

    def close(self) -> None:
        """End the process and its workers: asked first, then killed."""
        self.hang_up()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, 9)
            self._process.wait()
        self._answers.close()
        self._log.close()

    def _send(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write((json.dumps(request) + "\n").encode())
            self._process.stdin.flush()
        except OSError:
            raise CheckError(self._death()) from None
        answer = json.loads(self._read_line(request.get("do", "start")))
        if "error" in answer:
            raise CheckError(answer["error"])
        ok: dict[str, Any] = answer["ok"]
        return ok

    def _read_line(self, what: str) -> bytes:
        deadline = time.monotonic() + self._patience
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise CheckError(f"{what}: no answer within {self._patience:.0f} s")
            piece = self._answers.read(1 << 16)
            if not piece:
                raise CheckError(self._death())
            line += piece
        return line

    def _death(self) -> str:
        """Say how the process ended, with the last line that it wrote."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f"its process ended (exit {self._process.returncode}){': ' + lines[-1] if lines else ''}"


def environment_for(kind: type[Job | TrainJob]) -> dict[str, str]:
    """Return the environment of a peer's process: ours, and for training what ``petseg-train`` sets as well."""
    environment = dict(os.environ)
    if kind is TrainJob:
        configure_openmp(environment)
    return environment
