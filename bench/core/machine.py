"""The machine and what processes use of it: hardware, versions, commit; processor time, memory, and the page cache.

Without importing torch where there is no GPU.
"""

import ctypes
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import psutil

from bench.results.records import Environment
from pipeline.choose_engine import dali_distributions
from shards.cores import usable_cores

ROOT = Path(__file__).resolve().parents[2]
_LIBRARIES = ("petseg", "torch", "torchvision", "numpy", "pillow", "webdataset", "opencv-python-headless", "simplejpeg",
              "mosaicml-streaming", "litdata", "spdl", "ffcv")  # fmt: skip


class RunClock:
    """Notes the time and the load at the start of a run; :meth:`finish` returns the environment at its end."""

    def __init__(self) -> None:
        self._clock, self._started = time.monotonic(), time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self._load = round(psutil.getloadavg()[0], 2)

    def finish(self) -> Environment:
        versions = {"python": platform.python_version()}
        for name in _LIBRARIES:
            with suppress(importlib.metadata.PackageNotFoundError):
                versions[name] = importlib.metadata.version(name)
        describe = "git", "-C", str(ROOT), "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+changes"
        return Environment(
            command=" ".join([Path(sys.argv[0]).name, *sys.argv[1:]]), started=self._started,
            seconds=round(time.monotonic() - self._clock, 1),
            commit=_output(*describe) if (ROOT / ".git").exists() else None,
            system=f"{platform.system()} {platform.release()} {platform.machine()}", cpu=_cpu_name(),
            cores=usable_cores(), last_level_cache_bytes=_last_level_cache(), gpu=gpu_names(),
            memory_bytes=psutil.virtual_memory().total, load_before=self._load,
            load_after=round(psutil.getloadavg()[0], 2), versions=versions | dali_distributions(),
        )  # fmt: skip


def _cpu_name() -> str:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _last_level_cache() -> int | None:
    texts = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(x.rstrip("KM")) * {"K": 1 << 10, "M": 1 << 20}.get(x[-1:], 1) for x in texts), default=None)


@lru_cache(maxsize=1)
def gpu_names() -> tuple[str, ...]:
    """Return name, driver and memory of each NVIDIA GPU, as nvidia-smi reports; empty where there is none."""
    text = _output("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
    return tuple(line.strip() for line in (text or "").splitlines() if line.strip())


@lru_cache(maxsize=1)
def why_no_gpu() -> str:
    """Return why nothing can be measured on a GPU here, or an empty text if it can."""
    if not gpu_names():
        return "no GPU here: nvidia-smi is not there or lists none"
    import torch

    return "" if torch.cuda.is_available() else "a GPU is here, but PyTorch finds no CUDA"


def _output(*command: str) -> str | None:
    """Return what a command prints; None where it fails."""
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    return None


def cpu_seconds(pid: int) -> float:
    """Return user + system time of a process, of its living descendants, and of those that it has waited for."""
    return _total(pid, lambda process: sum(process.cpu_times()[:4]))  # user, system, and those of children


def memory_bytes(pid: int) -> int:
    """Return the memory of the tree: the proportional set size (pages shared by n count 1/n), or where the system
    does not report it, the resident set size, which counts shared pages once for each process.
    """

    def used(process: psutil.Process) -> int:
        full = process.memory_full_info()
        return getattr(full, "pss", 0) or int(full.rss)

    return int(_total(pid, used))


def _total(pid: int, of: Callable[[psutil.Process], float]) -> float:
    total = 0.0
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.Error):  # it has just ended; its parent has waited for it and carries its time
                total += of(process)
    return total


def return_free_memory() -> None:
    """Give memory that was freed back to the system, so that it does not count for what follows (glibc)."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def drop_from_page_cache(files: Sequence[Path]) -> None:
    """Ask the kernel to forget the cached pages of files that one may read.

    ``posix_fadvise(POSIX_FADV_DONTNEED)``, after ``fsync``, since unwritten pages stay. Pages that another process maps
    stay as well, and the disk's or the hypervisor's own cache is out of reach: see :func:`resident_share`.
    """
    for path in files if hasattr(os, "posix_fadvise") else ():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident_share(files: Sequence[Path]) -> float | None:
    """Return which part of the files is in the page cache, 0..1, as ``fincore`` (util-linux) says; None without it."""
    text = _output("fincore", "--bytes", "--noheadings", "--raw", "--output", "RES,SIZE", "--", *map(str, files))
    numbers = list(map(int, (text or "").split()))
    cached, size = sum(numbers[::2]), sum(numbers[1::2])
    return min(1.0, cached / size) if size else None
