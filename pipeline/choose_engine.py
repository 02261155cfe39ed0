"""Which engine a loader uses, and why. Whatever depends on device, storage and platform is chosen here alone.

``dali`` runs DALI's graph on a GPU, or on a CPU with DALI's CPU backend; ``torch`` runs :mod:`pipeline.cpu` on the CPU,
in threads or in worker processes, and copies the batches to a GPU where one is wanted; ``auto`` is ``dali`` on a GPU
where DALI works, else ``torch``.
"""

import contextlib
import importlib
from collections.abc import Callable
from importlib import metadata
from typing import TYPE_CHECKING, Literal, get_args

from pipeline.engine import Decode, Engine, EngineOptions
from pipeline.io.members import MemberReader
from pipeline.io.scratch import Bytes
from shards.errors import UsageError
from shards.format.layout import Storage

if TYPE_CHECKING:
    import torch

EngineName = Literal["auto", "dali", "torch"]

# Looked up by name: listing what is installed reads every package's metadata, half a second with the extras.
_DALI_PACKAGES = [f"nvidia-dali-{kind}cuda{major}0" for kind in ("", "nightly-", "weekly-") for major in range(11, 20)]

# Why ``auto`` chooses the torch engine on a CPU, whether DALI is installed or not; DALI is not imported then.
WHY_TORCH = {
    "source": "on the CPU, libjpeg-turbo decodes large images as fast as DALI, in less memory",
    "jpeg": "on the CPU, libjpeg-turbo decodes small images faster than DALI",
    "raw": "raw storage needs no decoding",
}


def choose_engine(name: str, *, device_type: str, storage: Storage, decode: Decode = "full") -> tuple[str, str]:
    """Return the engine's name, ``dali`` or ``torch``, and the reason; ``UsageError`` if unknown or not available."""
    if name not in get_args(EngineName):
        raise UsageError(f"engine {name!r} is unknown; use auto, dali or torch")
    if name == "torch":
        return name, "requested"
    if decode == "scaled":
        if name == "dali":
            raise UsageError("decode='scaled' works with engine torch, not with dali; use decode='full'")
        return "torch", "decode='scaled' is the CPU decoder's"
    if name == "auto" and device_type == "cpu":
        return "torch", WHY_TORCH[storage]
    problem = dali_problem()
    if problem is None:
        return "dali", "requested" if name == "dali" else "decodes on the GPU"
    if name == "auto":
        return "torch", f"the GPU would decode with NVIDIA DALI, {problem}: the CPU decodes, and pixels are copied"
    raise UsageError(f"engine 'dali' needs NVIDIA DALI, {problem} (it exists for Linux); use torch")


def dali_problem() -> str | None:
    """Return why DALI cannot be used, as a clause; None where it can."""
    try:
        importlib.import_module("nvidia.dali")
    except Exception as error:  # noqa: BLE001 - it loads native libraries: anything may fail
        if isinstance(error, ModuleNotFoundError) and error.name in ("nvidia", "nvidia.dali"):
            return "which is not installed"
        text = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
        return f"which does not work here: {reason}"
    return None


def dali_distributions() -> dict[str, str]:
    """Return the installed packages that contain DALI, one for each CUDA, such as nvidia-dali-cuda130, and versions."""
    found = dict[str, str]()
    for name in _DALI_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def make_engine(
    name: str, options: EngineOptions, reader: MemberReader, *, device: "torch.device", processes: int, timeout: float
) -> Engine:
    """Return the engine ``name`` (``dali`` or ``torch``).

    A rank whose slice is empty (``options.batch_size`` is 0) needs neither DALI nor processes to make empty batches.
    """
    if name == "dali" and options.batch_size:
        from pipeline.dali.dali_engine import DaliEngine

        return DaliEngine(options, reader, device=device)
    if device.type == "cpu" or not options.batch_size:
        return _host_engine(options, reader, processes=processes, timeout=timeout)
    from pipeline.runtime.device_copies import MOST_COPIES, CopyingEngine, CudaCopyStream, page_locked

    host = _host_engine(options, reader, processes=processes, timeout=timeout, allocate=page_locked)
    return CopyingEngine(host, CudaCopyStream(device), most=MOST_COPIES)


def _host_engine(
    options: EngineOptions,
    reader: MemberReader,
    *,
    processes: int,
    timeout: float,
    allocate: "Callable[[tuple[int, ...]], Bytes] | None" = None,
) -> Engine:
    if processes and options.batch_size:
        from pipeline.workers.process_engine import ProcessEngine

        return ProcessEngine(options, reader, processes=processes, timeout=timeout)
    from pipeline.cpu.cpu_engine import CpuEngine

    return CpuEngine(options, reader) if allocate is None else CpuEngine(options, reader, allocate=allocate)
