"""A loader's arguments: what is wrong with them, in one clear line each, and what their defaults stand for."""

from __future__ import annotations

import os
from typing import Any, cast, get_args

from pipeline.order.augmentation import Augmentation, Preset
from shards.errors import UsageError

MAX_SIZE = 4096  # pixels a side of the output
MAX_BATCH = 65536


def usable_cores() -> int:
    """Return how many cores this process may use; under torchrun, its share of the machine's."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ranks_here = os.environ.get("LOCAL_WORLD_SIZE", "1")  # set by torchrun
    return max(1, cores // max(1, int(ranks_here) if ranks_here.isdecimal() else 1))


def resolve_augment(augment: str | Augmentation | None) -> Augmentation | None:
    """Return the augmentation that a name stands for."""
    if augment is None or isinstance(augment, Augmentation):
        return augment
    if augment in get_args(Preset):
        return Augmentation.preset(cast("Preset", augment))
    raise UsageError(f"augment {augment!r} is not known; use None, 'train', 'strong' or an Augmentation")


def check_numbers(*, batch_size: int, size: int, prefetch: int, threads: int | None, processes: int) -> None:
    """Raise ``UsageError`` unless each is a whole number within its bounds."""
    for name, value, least, most in (
        ("batch_size", batch_size, 1, MAX_BATCH),
        ("size", size, 1, MAX_SIZE),
        ("prefetch", prefetch, 1, 64),
        ("threads", 1 if threads is None else threads, 1, 1024),
        ("processes", processes, 0, 64),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise UsageError(f"{name} must be a whole number from {least} to {most}, not {value!r}")


def check_processes(processes: int, *, threads: int | None, engine: str) -> None:
    """Raise ``UsageError`` where processes were asked for that cannot make batches."""
    if not processes:
        return
    if threads is not None:
        raise UsageError(f"threads={threads} and processes={processes}: give one of them; a process has one thread")
    if engine != "torch":
        raise UsageError(f"processes={processes} works with engine torch, not with {engine}; use threads")
    if not hasattr(os, "memfd_create"):
        raise UsageError(f"processes={processes} needs Linux; use threads")


def check_timeout(timeout: float) -> float:
    """Return a number of seconds that one can wait for."""
    if not 0 < timeout < float("inf"):
        raise UsageError(f"timeout must be a number of seconds above 0, not {timeout!r}")
    return timeout


def check_slices(*, batch_size: int, world_size: int, shuffle: bool) -> None:
    """Raise ``UsageError`` where, in training, some rank would not get as much as the others."""
    if shuffle and world_size > batch_size:
        raise UsageError(
            f"batch_size {batch_size} (global) is smaller than the {world_size} ranks: some would get nothing; for "
            f"shuffled training use {world_size} or a multiple of it"
        )
    if shuffle and batch_size % world_size:
        raise UsageError(
            f"batch_size {batch_size} (global) does not divide by the {world_size} ranks; for shuffled training "
            f"use {batch_size // world_size * world_size} or {(batch_size // world_size + 1) * world_size}"
        )


def check_seed(seed: Any) -> None:
    """Raise ``UsageError`` unless the seed is a whole number."""
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise UsageError(f"seed must be a whole number, not {seed!r}")


def check_mask(mask: Any) -> None:
    """Raise ``UsageError`` unless the form of the masks is known."""
    if mask not in ("onehot", "index"):
        raise UsageError(f"mask {mask!r} is not known; use onehot or index")
