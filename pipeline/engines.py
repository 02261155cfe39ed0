"""Which engine a loader takes, and why. What is chosen by device, storage and platform is chosen here alone.

===========  =======================  =======================================  ==============================
engine       GPU                      CPU, ``source`` and ``jpeg``             CPU, ``raw``
===========  =======================  =======================================  ==============================
``dali``     DALI's graph, all of it  DALI decodes; the rest in host.py        DALI's graph, all of it
``torch``    --                       libjpeg-turbo decodes; rest in host.py   nothing to decode; host.py
``auto``     ``dali``                 ``dali`` for ``source`` if installed,    ``torch``
                                      ``torch`` for ``jpeg``
===========  =======================  =======================================  ==============================
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Literal, get_args

from pipeline.engine import Engine, Options
from pipeline.reading import MemberReader
from shards.errors import UsageError
from shards.format import Storage

if TYPE_CHECKING:
    import torch

EngineName = Literal["auto", "dali", "torch"]


def choose_engine(name: str, *, device_type: str, storage: Storage) -> tuple[str, str]:
    """Return the engine's name, ``dali`` or ``torch``, and the reason in a few words.

    Raises:
        UsageError: the name is unknown, or the engine cannot be had here.
    """
    if name not in get_args(EngineName):
        raise UsageError(f"engine {name!r} is not known; use auto, dali or torch")
    installed = importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None
    if name == "dali" and not installed:
        raise UsageError("engine 'dali' needs NVIDIA DALI, which is not installed (it exists for Linux); use torch")
    if device_type != "cpu":
        if name == "torch":
            raise UsageError("engine 'torch' works on the CPU; use engine dali, or device cpu and move the batches")
        if not installed:
            raise UsageError(
                "loading on a GPU needs NVIDIA DALI, which is not installed; use device cpu and move the batches"
            )
    if name != "auto":
        return name, "asked for"
    if device_type != "cpu":
        return "dali", "decodes on the GPU"
    if storage == "raw":
        return "torch", "raw storage needs no decoding"
    if not installed:
        return "torch", "NVIDIA DALI is not installed"
    if storage == "jpeg":
        return "torch", "on the CPU, libjpeg-turbo decodes small pictures faster than DALI"
    return "dali", "on the CPU, DALI decodes large pictures fastest"


def make_engine(
    name: str, options: Options, *, reader: MemberReader, batch_size: int, threads: int, device: torch.device
) -> Engine:
    """Return the engine ``name`` (``dali`` or ``torch``) for slices of at most ``batch_size`` samples; 0 is allowed."""
    if not batch_size:
        from pipeline.engine_empty import EmptyEngine

        return EmptyEngine(options, name=name, device=device)
    if name == "dali" and (device.type != "cpu" or options.storage == "raw"):
        from pipeline.engine_dali import DaliEngine

        return DaliEngine(options, reader, batch_size=batch_size, threads=threads, device=device)
    from pipeline.engine_host import Decoder, HostEngine

    decoder: Decoder
    if name == "dali":
        from pipeline.decode_dali import DaliDecoder

        decoder = DaliDecoder(reader, batch_size=batch_size, threads=threads)
    elif options.storage == "raw" and options.stored_size is not None:
        from pipeline.decode_raw import RawDecoder
        from pipeline.raw import RawReader

        decoder = RawDecoder(RawReader(reader, size=options.stored_size))
    else:
        from pipeline.decode_turbo import TurboDecoder

        decoder = TurboDecoder(reader, stored_size=options.stored_size)
    return HostEngine(
        name=name,
        decoder=decoder,
        place=reader.place,
        options=options,
        batch_size=batch_size,
        threads=threads,
    )
