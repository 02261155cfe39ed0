"""One process of one, or of several that train together (``torchrun``): gloo on CPUs, NCCL on GPUs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed as dist

_TIMEOUT = timedelta(minutes=10)  # a rank that has died is noticed after this long, if torchrun does not notice first


@dataclass(frozen=True)
class World:
    """This process among all: ``rank`` of ``size``, and ``local_rank`` of ``local_size`` on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Add a tensor up over all ranks, in place, and return it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool, *, device: torch.device) -> bool:
        """Return whether ``flag`` is set on any rank; all ranks must ask together."""
        if self.size == 1:
            return flag
        return bool(self.sum(torch.tensor(int(flag), device=device)).item())

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's value, in the order of ranks, on every rank. For small things and rare moments."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def first_says(self, value: Any) -> Any:
        """Return rank 0's value on every rank."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]


def world_of_environment() -> World:
    """Read what torchrun says about this process; one process alone where it says nothing."""

    def number(name: str, default: int) -> int:
        return int(os.environ.get(name, default))

    size = number("WORLD_SIZE", 1)
    if size == 1:
        return World()
    return World(
        rank=number("RANK", 0),
        size=size,
        local_rank=number("LOCAL_RANK", 0),
        local_size=number("LOCAL_WORLD_SIZE", 1),
    )


@contextlib.contextmanager
def process_group(world: World, device: torch.device) -> Iterator[None]:
    """Join the other ranks, and leave them at the end."""
    if world.size == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", timeout=_TIMEOUT, device_id=device)
    else:
        dist.init_process_group("gloo", timeout=_TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()
