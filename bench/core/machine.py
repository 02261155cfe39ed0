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

ROOT = Path(__file__).resolve().parents[2]
_LIBRARIES = ("petseg", "torch", "torchvision", "numpy", "pillow", "webdataset", "opencv-python-headless", "simplejpeg",
              "mosaicml-streaming", "litdata", "spdl", "ffcv")  # fmt: skip


class RunClock:
    """Notes the time and the load at the start of a run; :meth:`finish` returns the environment at its end."""

    def __init__(self) -> None:
        self._clock, self._started = time.monotonic(), time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self._load = round(psutil.getloadavg()[0], 2)

    def finish(self) -> Environment:
        """Return the environment."""
        versions = {"python": platform.python_version()}
        for name in _LIBRARIES:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
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
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


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
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    return None
