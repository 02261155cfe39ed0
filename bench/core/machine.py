"""Where a benchmark runs: machine, GPU, versions, commit; without importing torch where there is no GPU."""

import contextlib
import importlib.metadata
import platform
import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path

import psutil

from bench.results.records import Environment
from pipeline.choose_engine import dali_distributions
from shards.cores import usable_cores

_LIBRARIES = (
    "petseg", "torch", "torchvision", "numpy", "pillow", "webdataset", "opencv-python-headless",
    "simplejpeg", "mosaicml-streaming", "litdata", "spdl", "ffcv",
)  # fmt: skip


class RunClock:
    """Notes the time and the load at the start of a run; :meth:`finish` returns the environment at its end."""

    def __init__(self) -> None:
        self._clock = time.monotonic()
        self._started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self._load = round(psutil.getloadavg()[0], 2)

    def finish(self) -> Environment:
        """Return the environment."""
        return Environment(
            command=" ".join([Path(sys.argv[0]).name, *sys.argv[1:]]), started=self._started,
            seconds=round(time.monotonic() - self._clock, 1), commit=_commit(),
            system=f"{platform.system()} {platform.release()} {platform.machine()}", cpu=_cpu_name(),
            cores=usable_cores(), last_level_cache_bytes=_last_level_cache(), gpu=gpu_names(),
            memory_bytes=psutil.virtual_memory().total, load_before=self._load,
            load_after=round(psutil.getloadavg()[0], 2), versions=_versions(),
        )  # fmt: skip


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found | dali_distributions()


def _commit() -> str | None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    return _output("git", "-C", str(root), "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+changes")


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _last_level_cache() -> int | None:
    texts = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    sizes = [int(text.rstrip("KM")) * {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1) for text in texts]
    return max(sizes, default=None)


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
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
