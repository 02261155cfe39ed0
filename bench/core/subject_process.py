"""The process of benchmark subjects, seen from both sides: commands go there, results or errors come back."""

import atexit
import contextlib
import multiprocessing
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import IO, Any, NoReturn

from bench.core.machine import memory_bytes
from bench.core.output_check import CheckError
from shards.errors import PetsegError, TerminatedError, command_line, first_line

PATIENCE_SECONDS = 300.0  # for one command; converting a data set may take that long


class SubjectProcess:
    """A process that holds a ``server`` ("module:class", made with ``arguments``): commands are its public methods.

    The first command starts it, and also the next one after it has died or hung. A command that fails, or takes longer
    than ``patience``, is a :class:`CheckError` that says which. ``peak_memory_bytes`` is the most that the process took
    with its workers during commands.
    """

    def __init__(self, server: str, *, environment: Mapping[str, str] | None = None, **arguments: Any) -> None:
        self.server, self.arguments, self.environment = server, arguments, environment
        self.peak_memory_bytes, self.patience, self.memory_every = 0, PATIENCE_SECONDS, 0.25
        self.popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process unless it runs, and wait until it has imported its libraries."""
        if self.popen is not None:
            return
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._connection, theirs = multiprocessing.Pipe()
        program = f"from {__name__} import serve; serve({theirs.fileno()})"
        self.popen = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
            pass_fds=(theirs.fileno(),), env={**os.environ, **(self.environment or {})},
            start_new_session=True,  # its workers end with it, and Ctrl-C reaches only the benchmark
        )  # fmt: skip
        theirs.close()
        try:
            self._send(self.server, self.arguments)
        except CheckError:  # else the next command would be taken for the server's name
            self.close()
            raise

    def ask(self, command: str, *, timed: bool = False, **arguments: Any) -> Any:
        """Run one command and return its answer.

        The memory of the process tree is read meanwhile. Of what is timed it is read before and after only: a reading
        stops each of the processes for milliseconds, which costs the fast ones up to a tenth.
        """
        try:
            self.start()
            self._read_memory()
            answer = self._send(command, arguments, pause=self.patience if timed else self.memory_every)
            self._read_memory()
        except (KeyboardInterrupt, TerminatedError):  # the process would finish its command first
            self.close(seconds=0)
            raise
        return answer

    def close(self, *, seconds: float = 5) -> None:
        """End the process and its workers: hang up, wait so long for it to end, and kill what is left."""
        if self.popen is None:
            return
        self._connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(timeout=seconds)
        self.kill()
        self.popen.wait()
        self._log.close()
        self.popen = None

    def kill(self) -> None:
        """Kill the process and its workers; a thread that waits for an answer then has a :class:`CheckError`."""
        if (popen := self.popen) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(popen.pid, signal.SIGKILL)  # with the workers that it may have left behind

    def _read_memory(self) -> None:
        assert self.popen is not None
        self.peak_memory_bytes = max(self.peak_memory_bytes, memory_bytes(self.popen.pid))

    def _send(self, command: str, arguments: dict[str, Any], *, pause: float = PATIENCE_SECONDS) -> Any:
        """Return the answer to a command; read the memory after each pause until it comes."""
        assert self.popen is not None
        deadline = time.monotonic() + self.patience
        try:
            self._connection.send((command, arguments))
            while not self._connection.poll(min(pause, self.patience)):
                if time.monotonic() >= deadline:
                    self.close(seconds=0)
                    raise CheckError(f"{command}: no answer within {self.patience:g} s")
                self._read_memory()
            succeeded, answer = self._connection.recv()
        except (EOFError, OSError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(timeout=5)
            self._log.seek(0)
            last = self._log.read().decode(errors="replace").strip().splitlines()[-1:]
            text = ": ".join([f"its process ended (exit {self.popen.returncode})", *last])
            self.close()
            raise CheckError(text) from None
        if not succeeded:
            raise CheckError(answer)
        return answer


def serve(descriptor: int) -> NoReturn:
    """Answer commands on an inherited connection until its other end is closed, and leave."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the benchmark's business; it ends this process
    connection, server = Connection(descriptor), None
    with contextlib.suppress(EOFError, OSError), command_line():
        while True:
            command, arguments = connection.recv()
            answer: tuple[bool, Any]
            try:
                if server is None:
                    server, answer = pkgutil.resolve_name(command)(**arguments), (True, None)
                else:
                    answer = True, getattr(server, command)(**arguments)
            except PetsegError as error:
                answer = False, str(error)
            except Exception as error:  # noqa: BLE001 - whatever a peer raises is reported, and the others run on
                answer = False, f"{type(error).__name__}: {first_line(error)}"
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
