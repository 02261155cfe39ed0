"""Which engine a loader takes, and why. What is chosen by device, storage and platform is chosen here alone.

===========  =======================  =======================================  ==============================
engine       GPU                      CPU, ``source`` and ``jpeg``             CPU, ``raw``
===========  =======================  =======================================  ==============================
``dali``     DALI's graph, all of it  DALI decodes; the rest in host.py        DALI's graph, all of it
``torch``    --                       libjpeg-turbo decodes; rest in host.py   nothing to decode; host.py
``auto``     ``dali``                 ``torch``                                ``torch``
===========  =======================  =======================================  ==============================
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Literal, get_args

from pipeline.engine import IN_HAND, Engine, Options
from pipeline.io.members import MemberReader
from shards.errors import UsageError
from shards.format.layout import Storage

if TYPE_CHECKING:
    import torch

    from pipeline.cpu.cpu_engine import HostEngine

EngineName = Literal["auto", "dali", "torch"]

# Why ``auto`` takes the portable engine on a CPU, whether DALI is there or not; then it is not imported.
WHY_TORCH = {
    "source": "on the CPU, libjpeg-turbo decodes large pictures as fast as DALI, in less memory",
    "jpeg": "on the CPU, libjpeg-turbo decodes small pictures faster than DALI",
    "raw": "raw storage needs no decoding",
}


def choose_engine(name: str, *, device_type: str, storage: Storage) -> tuple[str, str]:
    """Return the engine's name, ``dali`` or ``torch``, and the reason in a few words.

    Raises:
        UsageError: the name is unknown, or the engine cannot be had here.
    """
    if name not in get_args(EngineName):
        raise UsageError(f"engine {name!r} is not known; use auto, dali or torch")
    if device_type != "cpu" and name == "torch":
        raise UsageError("engine 'torch' works on the CPU; use engine dali, or device cpu and move the batches")
    if name == "torch":
        return name, "asked for"
    if name == "auto" and device_type == "cpu":
        return "torch", WHY_TORCH[storage]
    problem = dali_problem()
    if problem is None:
        return "dali", "asked for" if name == "dali" else "decodes on the GPU"
    if device_type != "cpu":
        raise UsageError(f"loading on a GPU needs NVIDIA DALI, {problem}; use device cpu and move the batches")
    raise UsageError(f"engine 'dali' needs NVIDIA DALI, {problem} (it exists for Linux); use torch")


def dali_problem() -> str | None:
    """Return why DALI cannot be used here, to be put after its name; None where it can."""
    try:
        importlib.import_module("nvidia.dali")
    except ModuleNotFoundError as error:
        if error.name in ("nvidia", "nvidia.dali"):
            return "which is not installed"
        return f"which does not work here: {first_line(error)}"
    except Exception as error:  # noqa: BLE001 - it loads native libraries: whatever fails there, there is another engine
        return f"which does not work here: {first_line(error)}"
    return None


def first_line(error: Exception) -> str:
    """Return an error's kind and the first line of what it says."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0][:200]}" if said else type(error).__name__


def make_engine(
    name: str,
    options: Options,
    *,
    reader: MemberReader,
    batch_size: int,
    threads: int,
    processes: int,
    prefetch: int,
    timeout: float,
    device: torch.device,
) -> Engine:
    """Return the engine ``name`` (``dali`` or ``torch``) for slices of at most ``batch_size`` samples; 0 is allowed.

    Raises:
        PetsegError: a process cannot be started.
    """
    if not batch_size:
        from pipeline.runtime.engine_empty import EmptyEngine

        return EmptyEngine(options, name=name, device=device)
    if name == "dali" and (device.type != "cpu" or options.storage == "raw"):
        from pipeline.dali.dali_engine import DaliEngine

        return DaliEngine(options, reader, batch_size=batch_size, threads=threads, device=device)
    if processes:
        from pipeline.workers.process_engine import ProcessEngine

        return ProcessEngine(
            options, reader, batch_size=batch_size, processes=processes, prefetch=prefetch, timeout=timeout
        )
    makers = min(threads, prefetch)
    spare = prefetch + IN_HAND  # all that can exist at a time: what a stream that is dropped gives back serves the next
    return make_host_engine(
        name, options, reader=reader, batch_size=batch_size, threads=threads, makers=makers, spare=spare
    )


def make_host_engine(
    name: str, options: Options, *, reader: MemberReader, batch_size: int, threads: int, makers: int, spare: int = 0
) -> HostEngine:
    """Return the engine that works on the CPU in this process, with the decoder that fits."""
    from pipeline.cpu.cpu_engine import Decoder, HostEngine

    decoder: Decoder
    if name == "dali":
        from pipeline.cpu.decode_dali import DaliDecoder

        decoder = DaliDecoder(reader, batch_size=batch_size, threads=threads)
    elif options.storage == "raw" and options.stored_size is not None:
        from pipeline.cpu.gather import RawDecoder
        from pipeline.io.raw_reader import RawReader

        decoder = RawDecoder(RawReader(reader, size=options.stored_size))
    else:
        from pipeline.cpu.turbo import TurboDecoder

        decoder = TurboDecoder(reader, stored_size=options.stored_size)
    return HostEngine(
        name=name,
        decoder=decoder,
        tell=reader.told,
        options=options,
        batch_size=batch_size,
        threads=threads,
        makers=makers,
        spare=spare,
    )
