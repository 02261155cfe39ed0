"""Rank and world size: given, or taken from torch.distributed."""

from __future__ import annotations

import sys

from shards.errors import UsageError


def resolve_ranks(*, rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Return (rank, world size): as given, else torch.distributed's where it is initialised, else (0, 1).

    Raises:
        UsageError: only one of the two is given, or they are inconsistent.
    """
    if (rank is None) != (world_size is None):
        raise UsageError("give both rank and world_size, or neither")
    if rank is None or world_size is None:
        return _distributed_ranks()
    if world_size < 1 or not 0 <= rank < world_size:
        raise UsageError(f"rank {rank} of world_size {world_size}: world_size must be at least 1, rank 0..world_size-1")
    return rank, world_size


def _distributed_ranks() -> tuple[int, int]:
    if "torch.distributed" not in sys.modules:  # not imported, so not initialised
        return 0, 1
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1
