"""Device, precision and CPU threads: the one place that distinguishes CPU from GPU."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from petseg.host.distributed import world_from_environment
from pipeline.arguments import resolve_device, usable_cores
from shards.errors import PetsegError, UsageError, is_whole_number, option, shown_value, spelled

Precision = Literal["auto", "fp32", "bf16", "fp16"]
UsedPrecision = Literal["fp32", "bf16", "fp16"]

_CPU_FACTS = Path("/proc/cpuinfo")
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Placement:
    """Where and how the network computes."""

    device: torch.device  # for CUDA with its index
    precision: UsedPrecision  # of convolutions; weights, normalisation, losses and metrics stay fp32

    @property
    def on_gpu(self) -> bool:
        """Whether this is a CUDA device."""
        return self.device.type == "cuda"

    def autocast(self) -> torch.autocast:
        """Return a new autocast context for this precision."""
        return torch.autocast(self.device.type, dtype=_TYPES[self.precision], enabled=self.precision != "fp32")

    def scaler(self) -> torch.amp.GradScaler:
        """Return a gradient scaler, enabled with fp16 only."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")


def choose_device(name: str | torch.device, *, local_rank: int = 0) -> torch.device:
    """Return the device for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; ``UsageError`` if there is no such device.

    With several processes on a machine, ``auto`` and ``cuda`` give each the GPU of its ``local_rank``; a process that
    sees one GPU only, as those of Slurm with ``--gpus-per-task=1``, has that one. ``cuda:N`` would put all of them on
    the same GPU, where NCCL does not work.
    """
    if not is_whole_number(local_rank, 0):
        raise UsageError(f"local_rank must be a whole number of 0 or more, not {shown_value(local_rank)}")
    if not isinstance(name, str | torch.device):
        raise UsageError(f"{option('device', name)}: give auto, cpu, cuda or cuda:N")
    name = str(name)
    if name in ("auto", "cuda") and torch.cuda.is_available():
        name = "cuda:0" if torch.cuda.device_count() == 1 else f"cuda:{local_rank}"
    elif name.startswith("cuda:") and (processes := world_from_environment().local_size) > 1:
        raise UsageError(
            f"{option('device', name)}: {processes} processes on this machine would share one GPU; use "
            f"{option('device', 'cuda')}, which gives each its own"
        )
    try:
        return resolve_device(name)
    except UsageError as error:
        raise UsageError(f"{option('device', name)}: {error}") from None


def choose_placement(device: torch.device, precision: Precision) -> Placement:
    """Resolve the precision: ``auto`` is fp32 on the CPU, and on a GPU bf16 where supported, else fp16.

    Raises ``UsageError`` if the device cannot compute in this precision.
    """
    if precision not in get_args(Precision):
        raise UsageError(f"{option('precision', precision)}: choose from {', '.join(get_args(Precision))}")
    if device.type == "cpu":
        if sys.platform == "linux" and not _CPU_FACTS.exists():  # else: "Your CPU does not support FBGEMM", in a step
            raise PetsegError(
                f"torch cannot compute on the CPU without {_CPU_FACTS}; mount /proc, or use {option('device', 'cuda')}"
            )
        if precision == "fp16":
            raise UsageError(spelled("--precision=fp16 needs a CUDA device; on the CPU use fp32 or bf16"))
        return Placement(device=device, precision="fp32" if precision == "auto" else precision)
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16" and not has_bf16:
        raise UsageError(
            f"{option('precision', 'bf16')}: {torch.cuda.get_device_name(device)} has no bf16; use fp16 or auto"
        )
    if precision == "auto":
        precision = "bf16" if has_bf16 else "fp16"
    return Placement(device=device, precision=precision)


@contextlib.contextmanager
def fast_kernels(placement: Placement) -> Iterator[None]:
    """Let a GPU use its fastest kernels within the block; nothing to do on a CPU.

    cudnn tries its algorithms at the first batch of each shape (shapes are few, because batches are padded), and fp32
    products use TF32, as torch's convolutions do anyway. Both settings are per process and are restored.
    """
    if not placement.on_gpu:
        yield
        return
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    cudnn.benchmark = cudnn.allow_tf32 = matmul.allow_tf32 = True
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


@contextlib.contextmanager
def cpu_threads(threads: int | None) -> Iterator[int]:
    """Set torch's CPU threads: ``threads``, or this process's share of the machine's cores; yield their number.

    No core is reserved for the loader: one core decodes hundreds of images per second, of which a network on the CPU
    consumes a few dozen. Subnormal numbers are flushed to zero, because they slow the CPU down and change nothing.
    Both settings are per process and are restored after the block.
    """
    count = threads or usable_cores()
    previous = torch.get_num_threads()
    flushed = float(np.float64(2.0**-1022) * np.float64(0.5)) == 0.0  # whether subnormals are flushed now
    torch.set_num_threads(count)
    np.finfo(np.float32), np.finfo(np.float64)  # NumPy 1.26 warns where they are first asked for without subnormals
    torch.set_flush_denormal(True)
    try:
        yield count
    finally:
        torch.set_num_threads(previous)
        torch.set_flush_denormal(flushed)
