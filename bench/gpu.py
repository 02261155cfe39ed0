"""Whether there is a GPU to measure on, and which, without importing torch where there is none."""

from __future__ import annotations

import shutil
import subprocess
from functools import lru_cache


@lru_cache(maxsize=1)
def gpu_names() -> tuple[str, ...]:
    """Return name, driver and memory of each NVIDIA GPU, as nvidia-smi tells; empty where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    try:
        done = subprocess.run(
            [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip())


@lru_cache(maxsize=1)
def why_no_gpu() -> str:
    """Return why nothing can be measured on a GPU here, or an empty text if it can."""
    if not gpu_names():
        return "no GPU here: nvidia-smi is not there or lists none"
    import torch

    return "" if torch.cuda.is_available() else "a GPU is here, but PyTorch finds no CUDA"
