"""Runs commands in forks of one process, so that torch is imported once: ``python command_server.py MODULE...``.

For each line of JSON on stdin, a command; the answer is a line of JSON with its exit code, stdout and stderr. All but
``argv`` may be left out:

- ``argv``: the program and its arguments;
- ``closed``: which of the numbers 0 to 2 are closed, as by ``>&-``;
- ``unread``: stdout is a pipe whose reader is gone, as after ``| head -1``;
- ``terminal``: stdout and stderr are a terminal;
- ``env``: variables of the environment, null for none;
- ``cwd``: the current folder; null is one that was removed;
- ``clock``: the time of day jumps at each look, by up to years.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import itertools
import json
import os
import pty
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

JUMPS = (0.0, -3600.0, 86400.0 * 3000, -86400.0 * 9000, 7.5)  # seconds


def serve() -> dict[str, Any]:
    """Answer all requests; in the child that becomes a command, return what was asked."""
    # Not closed by their objects, which in a child are of descriptors that are closed.
    requests, answers = os.fdopen(os.dup(0), closefd=False), os.fdopen(os.dup(1), "w", closefd=False)
    for line in requests:
        wanted: dict[str, Any] = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            master, slave = pty.openpty() if wanted.get("terminal") else (-1, -1)
            child = os.fork()
            if child == 0:
                for number, file in ((1, out), (2, err)):
                    os.dup2(slave if wanted.get("terminal") else file.fileno(), number)
                os.close(requests.fileno())
                os.close(answers.fileno())
                return wanted
            shown = b""
            if wanted.get("terminal"):
                os.close(slave)
                with contextlib.suppress(OSError):  # what a terminal says when all have closed it
                    while part := os.read(master, 4096):
                        shown += part
                os.close(master)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode("utf-8", "backslashreplace"))
        answer = {"code": code, "out": texts[0] or shown.decode(), "err": texts[1]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    sys.exit(0)


def prepare(wanted: dict[str, Any]) -> None:
    """Make this process what was asked for."""
    for name, value in wanted.get("env", {}).items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if wanted.get("unread"):
        reader, writer = os.pipe()
        os.dup2(writer, 1)
        os.close(reader)
    sys.stdout, sys.stderr = (_stream(number, like) for number, like in ((1, sys.stdout), (2, sys.stderr)))
    for number in wanted.get("closed", ()):
        os.close(number)
        setattr(sys, ("stdin", "stdout", "stderr")[number], None)
    _go_to(wanted.get("cwd", "/"))
    if wanted.get("clock"):
        _let_the_clock_jump()


def _stream(number: int, like: Any) -> Any:
    return open(number, "w", encoding=like.encoding, errors=like.errors, closefd=False)


def command(program: str) -> Any:
    """Return a program's click command."""
    if program == "petseg-shard":
        from shards.cli import main as shard

        return shard
    if program == "petseg-bench":
        from bench.cli import main as bench

        return bench
    import petseg.cli

    names = {"petseg-train": "train", "petseg-eval": "evaluate", "petseg-predict": "predict", "petseg-export": "export"}
    return getattr(petseg.cli, names[program])


def _go_to(folder: str | None) -> None:
    if folder is None:
        gone = tempfile.mkdtemp()
        os.chdir(gone)
        Path(gone).rmdir()
    else:
        os.chdir(folder)


def _let_the_clock_jump() -> None:
    steps, seconds, nanoseconds = itertools.cycle(JUMPS), time.time, time.time_ns
    time.time = lambda: seconds() + next(steps)
    time.time_ns = lambda: nanoseconds() + int(next(steps) * 1e9)


def end(code: int) -> NoReturn:
    """End as Python does, but for taking torch apart, which takes a second."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:
            os.write(2, f"Exception ignored in: {stream}\n{error}\n".encode())
            code = 120
    os._exit(code)


if __name__ == "__main__":
    for module in sys.argv[1:]:
        importlib.import_module(module)
    request = serve()
    prepare(request)
    program, *arguments = (os.fsdecode(each.encode()) for each in request["argv"])
    try:
        command(program).main(arguments, prog_name=program)
    except SystemExit as exit_:
        end(int(exit_.code or 0))
