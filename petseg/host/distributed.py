"""The ranks that train together under ``torchrun``: gloo on CPUs, NCCL on GPUs. Without torchrun there is one."""

import contextlib
import functools
import itertools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed as dist
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from shards.errors import PetsegError

_TIMEOUT = timedelta(minutes=10)  # until a dead rank is noticed, if torchrun does not notice first


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
    """Read torchrun's environment variables; without them this is the only process."""
    names = {"rank": "RANK", "size": "WORLD_SIZE", "local_rank": "LOCAL_RANK", "local_size": "LOCAL_WORLD_SIZE"}
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World()
    return World(**{field: int(os.environ[name]) for field, name in names.items() if name in os.environ})


def first_decides(world: World, decide: Callable[[], Any]) -> Any:
    """Return what ``decide`` returns on rank 0, a JSON value, on every rank; every rank must call this.

    It needs no process group, which exists only once a run's device is known: the ranks' rendezvous is enough. Where
    ``decide`` raises, the other ranks raise :class:`FirstRankError`.
    """
    if world.size == 1:
        return decide()
    store, key = _rendezvous(), f"decision-{next(_decisions)}"
    if not world.first:
        document = json.loads(store.get(key))
        if "failed" in document:
            raise FirstRankError(document["failed"])
        return document["decided"]
    try:
        decided = decide()
    except BaseException as error:
        store.set(key, json.dumps({"failed": str(error)}))
        raise
    store.set(key, json.dumps({"decided": decided}))
    return decided


class FirstRankError(PetsegError):
    """Rank 0 has refused to start and says why; the other ranks end with it."""


_decisions, _groups = itertools.count(), itertools.count()


@functools.cache
def _rendezvous() -> Any:
    """Return the store of torchrun's environment; kept, because without torchrun rank 0's serves the others.

    torchrun may serve the same store again when it restarts its processes: what they wrote before must not be read.
    """
    store, _, _ = next(rendezvous("env://", timeout=_TIMEOUT))
    return PrefixStore(f"petseg/attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


@contextlib.contextmanager
def process_group(world: World, device: torch.device) -> Iterator[None]:
    """Join torch's default process group for the block; nothing to do for a single process."""
    if world.size == 1:
        yield
        return
    store = PrefixStore(f"group-{next(_groups)}", _rendezvous())
    place: dict[str, Any] = {"store": store, "rank": world.rank, "world_size": world.size, "timeout": _TIMEOUT}
    if device.type == "cuda":
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device, **place)
    else:
        dist.init_process_group("gloo", **place)
    try:
        yield
    finally:
        dist.destroy_process_group()
