"""Fixtures of the benchmarks' tests; the functions that make results are in bench_results.py in this folder."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.core.output_check import CheckError
from bench.core.subject_process import SubjectProcess

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode does not


def start_here(self: Any) -> None:
    """In place of :meth:`SubjectProcess.start`: do the work in this process.

    A process of its own imports torch, which takes longer than a short measurement.
    """
    if self.popen is None:
        self.popen = pkgutil.resolve_name(self.server)(**self.arguments)


def ask_here(self: Any, command: str, *, timed: bool = False, **arguments: Any) -> Any:
    self.start()
    self.peak_memory_bytes = 1 << 26
    try:
        return getattr(self.popen, command)(**arguments)
    except CheckError:
        raise
    except Exception as error:
        raise CheckError(f"{type(error).__name__}: {error}") from error


def close_here(self: Any) -> None:
    if self.popen is not None:
        self.popen.close()
        self.popen = None


@pytest.fixture
def forked_subjects(monkeypatch: pytest.MonkeyPatch) -> None:
    """The subjects' processes are forks of one that has imported torch."""
    from forked_programs import ForkedPopen

    names = {"Popen": ForkedPopen, "DEVNULL": subprocess.DEVNULL, "TimeoutExpired": subprocess.TimeoutExpired}
    monkeypatch.setattr("bench.core.subject_process.subprocess", SimpleNamespace(**names))


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The subjects of benchmarks do their work in this process."""
    for name, method in (("start", start_here), ("ask", ask_here), ("close", close_here)):
        monkeypatch.setattr(SubjectProcess, name, method)
