"""The process of a benchmark subject: receives commands, and answers each with its result or an error.

``python -m bench.core.server FD`` serves on the inherited connection FD until its other end is closed. Commands are
the public methods of the class that :data:`SERVERS` names for its job.
"""

import atexit
import os
import pkgutil
import signal
import sys
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from bench.core.subject_process import PackJob, TrainJob
from bench.peers.job import Job
from shards.errors import PetsegError

SERVERS = {  # imported where they are needed: that of training needs torch
    Job: "bench.core.loader_server:LoaderServer",
    TrainJob: "bench.core.train_server:TrainServer",
    PackJob: "bench.build_benchmark:PackServer",
}


def main() -> None:
    """Serve until the connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the benchmark's business; it ends this process
    connection = Connection(int(sys.argv[1]))
    server: Any = None
    while True:
        try:
            command, arguments = connection.recv()
        except (EOFError, OSError):
            break
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
            lines = str(error).strip().splitlines()
            answer = False, f"{type(error).__name__}: {lines[0] if lines else ''}"
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


if __name__ == "__main__":
    main()
