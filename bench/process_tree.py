"""Memory and processor time of a process with all its descendants."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

SAMPLE_SECONDS = 0.25


def cpu_seconds(pid: int) -> float:
    """Return user + system time of a process, of its living descendants, and of those that it has waited for."""
    total = 0.0
    for process in _tree(pid):
        try:
            times = process.cpu_times()
        except psutil.Error:  # it has just ended; its parent has waited for it and carries its time
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def memory_bytes(pid: int) -> int:
    """Return the memory of the tree: the proportional set size (pages shared by n count 1/n), or where the system
    does not tell it, the resident set size, which counts shared pages once for each process.
    """
    total = 0
    for process in _tree(pid):
        try:
            full = process.memory_full_info()
            total += getattr(full, "pss", 0) or full.rss
        except psutil.Error:
            continue
    return total


@dataclass
class Peak:
    """The highest memory seen."""

    bytes: int = 0


@contextmanager
def watch_memory(pid: int, *, every: float = SAMPLE_SECONDS) -> Iterator[Peak]:
    """Look at the tree's memory every so many seconds, from a thread, until the block ends."""
    peak, stop = Peak(), threading.Event()

    def look() -> None:
        while True:
            peak.bytes = max(peak.bytes, memory_bytes(pid))
            if stop.wait(every):
                return

    thread = threading.Thread(target=look, name="petseg-bench-memory", daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
