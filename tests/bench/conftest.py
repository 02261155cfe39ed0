"""Fixtures of the benchmarks' tests; the functions that make results are in bench_results.py in this folder."""

from __future__ import annotations

import pkgutil
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.core.output_check import CheckError
from bench.core.subject_process import SERVERS, ProcessSubject

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode does not


def start_here(self: ProcessSubject) -> None:
    """In place of :meth:`ProcessSubject.start`: do the work in this process.

    A process of its own imports torch, which takes longer than a short measurement.
    """
    self.server_here = pkgutil.resolve_name(SERVERS[type(self.job)])(self.job)  # type: ignore[attr-defined]
    self.peak_memory_bytes = 1 << 26


def ask_here(self: Any, command: str, *, timed: bool = False, **arguments: Any) -> Any:
    self.peak_memory_bytes = 1 << 26
    try:
        return getattr(self.server_here, command)(**arguments)
    except CheckError:
        raise
    except Exception as error:
        raise CheckError(f"{type(error).__name__}: {error}") from error


def close_here(self: Any) -> None:
    if hasattr(self, "server_here"):
        self.server_here.close()
        del self.server_here


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The subjects of benchmarks do their work in this process."""
    for name, method in (("start", start_here), ("ask", ask_here), ("close", close_here)):
        monkeypatch.setattr(ProcessSubject, name, method)
