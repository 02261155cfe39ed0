"""The ranks that train together under ``torchrun``: gloo on CPUs, NCCL on GPUs. Without torchrun there is one."""

import contextlib
import itertools
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed as dist
from torch.distributed import PrefixStore  # type: ignore[attr-defined]

from petseg.host.meeting_store import meeting_store
from shards.errors import PetsegError, UsageError, abridged, first_line

_MINUTES = 10.0  # until a rank that does not answer counts as lost, where its machine has not closed the connection
_MOST = 10**9  # of processes


class LostRankError(PetsegError):
    """Another rank has ended, or its machine does not answer; only the last checkpoint is left."""


@dataclass(frozen=True)
class World:
    """This process: ``rank`` of ``size`` in all, ``local_rank`` of ``local_size`` on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes files and messages."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over all ranks, in place, and return it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool, *, device: torch.device) -> bool:
        """Return whether ``flag`` is set on any rank; every rank must call this."""
        if self.size == 1:
            return flag
        return bool(self.sum(torch.tensor(int(flag), device=device)).item())

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's value, in the order of ranks, on every rank; pickles them, so for small values only."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's value on every rank."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]


def world_from_environment() -> World:
    """Read torchrun's environment variables; without them this is the only process.

    Raises ``UsageError`` for values that they cannot have: with a wrong rank, the processes would wait for each other.
    """
    size = _number_from("WORLD_SIZE", default=1, least=1)
    if size == 1:
        return World()
    return World(
        rank=_number_from("RANK", default=0, most=size - 1),
        size=size,
        local_rank=_number_from("LOCAL_RANK", default=0),
        local_size=_number_from("LOCAL_WORLD_SIZE", default=1, least=1),
    )


def _number_from(name: str, *, default: int, least: int = 0, most: int = _MOST) -> int:
    """Return the number in an environment variable; ``default`` where it is not set, or empty."""
    text = os.environ.get(name) or str(default)
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1
    if not least <= number <= most:
        limit = f"from {least} to {most}" if most < _MOST else f"of at least {least}"
        raise UsageError(
            f"the environment variable {name} is {abridged(text)!r}, not a whole number {limit}; start the processes "
            "with torchrun, or unset WORLD_SIZE for a single one"
        )
    return number


_groups = itertools.count()


@contextlib.contextmanager
def process_group(world: World, device: torch.device, *, minutes: float = _MINUTES) -> Iterator[None]:
    """Join torch's default process group for the block; nothing to do for a single process.

    A rank that has not answered for ``minutes`` counts as lost. What torch raises then, or when a connection is closed,
    becomes a :class:`LostRankError`.
    """
    if world.size == 1:
        yield
        return
    store = PrefixStore(f"group-{next(_groups)}", meeting_store(world.rank, world.size))
    place: dict[str, Any] = {"store": store, "rank": world.rank, "world_size": world.size}
    place["timeout"] = timedelta(minutes=minutes)
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
            dist.init_process_group("nccl", device_id=device, **place)
        else:
            dist.init_process_group("gloo", **place)
        try:
            yield
        finally:
            dist.destroy_process_group()
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo/" not in str(error):
            raise
        # "[file:line] Read error [address]:port: Connection reset by peer. This is typically caused by ..."
        reason = first_line(error).rpartition("] ")[2] if str(error).startswith("[") else first_line(error)
        raise LostRankError(
            f"rank {world.rank} on {socket.gethostname()} has lost another process ({reason.split('. ')[0]}), whose "
            "own output says why"
        ) from None
