"""What all commands share: --version, and what is drawn on a terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("command", PROJECT["scripts"])
def test_version_of_every_command(command: str) -> None:
    module, function = PROJECT["scripts"][command].split(":")
    code = (
        f"import sys; from {module} import {function} as main\n"
        f"try: main(['--version'], prog_name='{command}')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert not {'torch', 'cv2', 'nvidia', 'matplotlib'} & {*sys.modules}, sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == (f"{command} {PROJECT['version']}\n", "")


def test_version_from_python() -> None:
    import petseg

    assert petseg.__version__ == PROJECT["version"]


def on_a_terminal(code: str, term: str | None) -> bytes:
    """Return what a program writes to stdout and stderr, which are a terminal."""
    environment = {name: value for name, value in os.environ.items() if name != "TERM"}
    if term is not None:
        environment["TERM"] = term
    number, name = pty.openpty()
    child = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=name, stderr=name, cwd=ROOT)
    os.close(name)
    output = b""
    with contextlib.suppress(OSError):  # of the end, on Linux
        while part := os.read(number, 65536):
            output += part
    os.close(number)
    assert child.wait() == 0, output
    return output


DRAWN = {
    "bar": "from shards.console import progress_bar\nwith progress_bar('packing') as show:\n    show and show(1, 2)",
    "work": "from shards.console import current_work\nwith current_work('reading') as show:\n    show('writing')",
    "count": "from petseg.report.console_reporter import progress_count\nwith progress_count('seen') as add:\n  add(1)",
    "training": "from petseg import ConsoleReporter\nConsoleReporter().close()",
    "table": "from shards.console import stdout_console\nstdout_console().print('a table', style='bold')",
}


@pytest.mark.parametrize("what", DRAWN)
@pytest.mark.parametrize("term", [None, "", "dumb"])
def test_nothing_is_drawn_on_a_terminal_of_which_nothing_is_known(what: str, term: str | None) -> None:
    assert on_a_terminal(DRAWN[what], term) in (b"", b"a table\r\n")


def test_progress_is_drawn_on_a_terminal() -> None:
    assert b"packing" in on_a_terminal(DRAWN["bar"], "xterm")
