"""Fixtures of the benchmarks' tests; the functions that make results are in bench_results.py in this folder."""

from __future__ import annotations

import pkgutil
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode does not


class SubjectHere:
    """Stands in for a :class:`bench.core.subject_process.SubjectProcess`, and does its work in this process.

    A process of its own imports torch, which takes longer than a short measurement.
    """

    def __init__(self, job: Any) -> None:
        self.job, self.peak_memory_bytes = job, 1 << 26

    def __enter__(self) -> SubjectHere:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        from bench.core.subject_process import SERVERS

        self.server = pkgutil.resolve_name(SERVERS[type(self.job)])(self.job)

    def ask(self, command: str, *, timed: bool = False, **arguments: Any) -> Any:
        from bench.core.output_check import CheckError

        try:
            return getattr(self.server, command)(**arguments)
        except CheckError:
            raise
        except Exception as error:
            raise CheckError(f"{type(error).__name__}: {error}") from error

    def close(self) -> None:
        if hasattr(self, "server"):
            self.server.close()


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The subjects of benchmarks do their work in this process."""
    monkeypatch.setattr("bench.core.subject_process.SubjectProcess", SubjectHere)
    monkeypatch.setattr("bench.core.loader_subject.SubjectProcess", SubjectHere)
