"""Programs in Python, each a fork of one process that has torch imported, which takes every new process seconds.

:class:`ForkedPopen` is ``subprocess.Popen``: its processes are children of the caller, with an environment, streams and
a session of their own. The differences: what this file's ``IMPORTED`` names is imported already, and a program that has
ended does not take its modules apart. ``subprocess.Popen`` remains for tests of exactly that.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import os
import random
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import threading
import traceback
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

IMPORTED = (
    *("cv2", "numpy", "torch", "torch._dynamo", "torch.distributed.run", "PIL.Image", "simplejpeg", "msgspec"),
    *("shards.cli", "shards.build.build_set", "pipeline.cpu.cpu_engine", "petseg.cli", "petseg.training.start"),
)
LARGEST = 1 << 17  # bytes of a request; a socket's buffer holds more
PR_SET_CHILD_SUBREAPER = 36
TORCHRUN = ("torchrun", "torch.distributed.run")

_lock = threading.Lock()
_server: tuple[int, socket.socket] | None = None  # whose child it is, and the connection to it


class ForkedPopen(subprocess.Popen):  # type: ignore[type-arg]
    """A program in Python as a fork of a process that has imported what most programs need."""

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, *rest: Any) -> None:
        names = "close_fds pass_fds cwd env startup flags shell p2cread p2cwrite c2pread c2pwrite errread errwrite"
        wanted: dict[str, Any] = dict(zip(names.split(), rest, strict=False))
        command = [os.fsdecode(part) for part in args] if isinstance(args, list | tuple) else []
        if preexec_fn or executable or wanted["shell"] or not _is_python(command, wanted["env"]):
            super()._execute_child(args, executable, preexec_fn, *rest)  # type: ignore[misc]
            return
        streams = [wanted["p2cread"], wanted["c2pwrite"], wanted["errwrite"]]
        streams = [number if stream == -1 else stream for number, stream in enumerate(streams)]
        request = {
            "command": command,
            "cwd": str(Path(os.fsdecode(wanted["cwd"] or ".")).absolute()),
            "env": dict(os.environ if wanted["env"] is None else wanted["env"]),
            "session": rest[-2],
            "numbers": [0, 1, 2, *wanted["pass_fds"]],
        }
        self.pid = _fork(json.dumps(request).encode(), [*streams, *wanted["pass_fds"]])
        self._child_created = True
        self._close_pipe_fds(*(wanted[name] for name in names.split()[-6:]))  # type: ignore[attr-defined]


def run(arguments: Any, **options: Any) -> subprocess.CompletedProcess[Any]:
    """Do as ``subprocess.run`` does."""
    timeout, check = options.pop("timeout", None), options.pop("check", False)
    given = options.pop("input", None)
    if options.pop("capture_output", False):
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if given is not None:
        options["stdin"] = subprocess.PIPE
    with ForkedPopen(arguments, **options) as process:
        try:
            out, error = process.communicate(given, timeout=timeout)
        except BaseException:
            process.kill()
            raise
    result = subprocess.CompletedProcess(process.args, process.returncode, out, error)
    if check:
        result.check_returncode()
    return result


def _is_python(command: list[str], env: dict[str, str] | None) -> bool:
    if not command:
        return False
    if Path(command[0]).name.startswith("python"):
        return True
    found = shutil.which(command[0], path=(os.environ if env is None else env).get("PATH"))
    if found is None:
        return False
    with open(found, "rb") as file:  # noqa: PTH123 - a name, as the shell finds it
        start = file.readline(200)
    command[0] = found
    return start.startswith(b"#!") and b"python" in start


def _fork(request: bytes, files: list[int]) -> int:
    """Return the number of a new child of this process."""
    global _server  # noqa: PLW0603 - one for each process
    if len(request) > LARGEST:
        raise ValueError(f"a request of {len(request)} bytes: this environment is larger than any test's")
    with _lock:
        if _server is None or _server[0] != os.getpid():
            _server = os.getpid(), _start_server()
        connection = _server[1]
        with _adopting():
            socket.send_fds(connection, [request], files)
            answer = connection.recv(100)
        if not answer:
            raise RuntimeError("the process that programs are forked from has ended")
        return int(answer)


@contextlib.contextmanager
def _adopting() -> Iterator[None]:
    """Orphans among this process's descendants become its own children."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    try:
        yield
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _start_server() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    return ours


def serve(connection: socket.socket) -> dict[str, Any]:
    """Fork for every request; in the child that becomes a program, return what was asked."""
    while True:
        message, files, _, _ = socket.recv_fds(connection, LARGEST, 64)
        if not message:
            os._exit(0)
        (gate, opener), (number, sender) = os.pipe(), os.pipe()
        middle = os.fork()
        if middle == 0:
            if child := os.fork():
                os.write(sender, str(child).encode())
                os._exit(0)
            os.close(opener)
            os.read(gate, 1)  # until it is closed: from then on, this process is the caller's child
            for file in (gate, number, sender):
                os.close(file)
            connection.close()
            return {**json.loads(message), "files": files}
        os.waitpid(middle, 0)
        answer = os.read(number, 100)
        for file in (gate, opener, number, sender, *files):
            os.close(file)
        connection.send(answer)


def become(wanted: dict[str, Any]) -> None:
    """Make this process what was asked for."""
    free = 1 + max([*wanted["files"], *wanted["numbers"]])  # above all of them: no file is replaced before its turn
    high = [fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, free) for file in wanted["files"]]
    for file in wanted["files"]:
        os.close(file)
    for file, number in zip(high, wanted["numbers"], strict=True):
        os.dup2(file, number)
        os.close(file)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if wanted["session"]:
        os.setsid()
    os.chdir(wanted["cwd"])
    os.environ.clear()
    os.environ.update(wanted["env"])
    if rank := os.environ.get("RANK"):
        Path("/proc/self/comm").write_text(f"rank {rank}")
    elif "-m" in wanted["command"][:-1]:  # the name of the module that is run
        module = wanted["command"][wanted["command"].index("-m") + 1]
        Path("/proc/self/comm").write_text(module.rpartition(".")[2])
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", buffering=1 if os.isatty(1) else -1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    random.seed()


def execute(program: str, arguments: list[str]) -> None:
    """Do what Python's command line says, or run a script of Python."""
    if not Path(program).name.startswith("python"):
        sys.argv = [program, *arguments]
        sys.path.insert(0, str(Path(program).parent))
        runpy.run_path(program, run_name="__main__")
        return
    safe = False
    while arguments and arguments[0].startswith("-") and arguments[0] not in ("-c", "-m", "-"):
        safe |= arguments.pop(0) in ("-P", "-I")
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [path for path in paths if path and path not in sys.path]
    kind = arguments.pop(0)
    if kind not in ("-c", "-m"):
        sys.argv = [kind, *arguments]
        if not safe:
            sys.path.insert(0, str(Path(kind).parent))
        runpy.run_path(kind, run_name="__main__")
        return
    text = arguments.pop(0)
    sys.argv = [kind, *arguments]
    if not safe:
        sys.path.insert(0, "" if kind == "-c" else str(Path.cwd()))
    if kind == "-m":
        runpy.run_module(text, run_name="__main__", alter_sys=True)
        return
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(text, "<string>", "exec"), module.__dict__)


def fork_ranks_of_torchrun(command: list[str]) -> dict[str, Any] | None:
    """Make torchrun's processes forks too: before it starts a thread, it becomes two, of which one forks for it.

    Return what was asked, where this process is one of those, and otherwise None.
    """
    global _server  # noqa: PLW0603
    if not any(Path(part).name in TORCHRUN for part in command[:3]):
        return None
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return serve(theirs)
    theirs.close()
    _server = os.getpid(), ours
    subprocess_handler.Popen = ForkedPopen  # in torch 2.4 it is subprocess.Popen
    subprocess_handler.subprocess = types.SimpleNamespace(**{**vars(subprocess), "Popen": ForkedPopen})
    return None


def end(code: int) -> NoReturn:
    """End as Python does, but for taking torch apart, which takes a second."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            os.write(2, f"Exception ignored in: {stream}\n{error}\n".encode())
            code = 120
    os._exit(code)


def main(connection: socket.socket) -> NoReturn:
    """Serve; in a child, be the program that was asked for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.path[0] = str(Path(__file__).parents[2])
    gc.disable()
    for module in IMPORTED:
        importlib.import_module(module)
    gc.freeze()
    gc.enable()
    code = 0
    wanted = serve(connection)
    become(wanted)
    if wanted_of_rank := fork_ranks_of_torchrun(wanted["command"]):
        wanted = wanted_of_rank
        become(wanted)
    program, *arguments = wanted["command"]
    try:
        execute(program, arguments)
    except SystemExit as exit_:
        if exit_.code is not None and not isinstance(exit_.code, int):
            print(exit_.code, file=sys.stderr)  # noqa: T201 - as Python does
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except KeyboardInterrupt:
        traceback.print_exc()
        sys.stderr.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:  # noqa: BLE001 - as Python does
        traceback.print_exc()
        code = 1
    end(code)


if __name__ == "__main__":
    # Not as __main__: programs that are run here become that.
    sys.modules["forked_programs"] = sys.modules["__main__"]
    main(socket.socket(fileno=int(sys.argv[1])))
