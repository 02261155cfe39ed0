"""Where a benchmark ran: machine, versions, commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import psutil

from bench.results import Environment

_LIBRARIES = (
    "petseg", "torch", "torchvision", "nvidia-dali-cuda120", "numpy", "pillow", "webdataset", "opencv-python-headless",
    "simplejpeg", "mosaicml-streaming", "litdata", "spdl", "ffcv",
)  # fmt: skip


class Started:
    """Notes the time and the load at the start of a run; :meth:`finish` tells the whole."""

    def __init__(self) -> None:
        self._clock = time.monotonic()
        self._started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self._load = load_average()

    def finish(self, *, gpu: tuple[str, ...] = ()) -> Environment:
        """Return the environment; call at the end."""
        return Environment(
            command=" ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            started=self._started,
            seconds=round(time.monotonic() - self._clock, 1),
            commit=commit(),
            system=f"{platform.system()} {platform.release()} {platform.machine()}",
            cpu=cpu_name(),
            cores=usable_cores(),
            last_level_cache_bytes=last_level_cache(),
            memory_bytes=psutil.virtual_memory().total,
            gpu=gpu,
            load_before=self._load,
            load_after=load_average(),
            versions=versions(),
        )


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_average() -> float | None:
    """Return the load average of the last minute; None where the system has none."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def versions() -> dict[str, str]:
    """Return the versions of Python and of those libraries that are installed."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Return the commit of the source tree that runs; None where it is no checkout, or git is not there."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        name = _git(root, "rev-parse", "--short=12", "HEAD")
        return name + ("+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def cpu_name() -> str:
    """Return the processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def last_level_cache() -> int | None:
    """Return the size of the largest processor cache in bytes; None where the system does not tell."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1)
        sizes.append(int(text.rstrip("KM")) * unit)
    return max(sizes, default=None)


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
