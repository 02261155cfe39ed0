"""A loader's arguments: errors in one clear line each, and what their defaults stand for."""

import os
import sys
from pathlib import Path
from threading import TIMEOUT_MAX
from typing import TYPE_CHECKING, Any, cast, get_args

from pipeline.engine import Decode, DecoderOptions
from pipeline.order.augmentation import Augmentation, Preset
from pipeline.order.epoch_order import SHUFFLES, Shuffling
from shards import cores
from shards.errors import PetsegError, UsageError, is_number, is_whole_number, shown_value
from shards.format.dataset import ShardSet
from shards.format.geometry import FITS, MAX_SCALE, MIN_SCALE, Scales, Size, parse_size
from shards.format.layout import Storage
from shards.store.addresses import expect_places

if TYPE_CHECKING:
    import torch


class LoaderCopyError(PetsegError, TypeError):
    """A loader was pickled or copied; a ``TypeError``, as for everything that cannot be."""

    def __init__(self) -> None:
        super().__init__(
            "a Loader has threads and open files, and cannot be pickled or copied: create one in the process that uses "
            "it, from the same arguments, and give it load_state_dict() of this one's state_dict()"
        )


class LoaderIndexError(PetsegError, TypeError):
    """A loader was indexed, as ``torch.utils.data.DataLoader`` does with a dataset."""

    def __init__(self) -> None:
        super().__init__(
            "a Loader makes whole batches and is iterated, not indexed: it stands in the place of a "
            "torch.utils.data.DataLoader, for batch in loader"
        )


_OF_DATALOADER = {
    "dataset": "the set's folder is the first argument",
    "num_workers": "threads=N or processes=N prepare batches",
    "prefetch_factor": "prefetch=N batches are prepared in advance",
    "transform": "augment='train', or an Augmentation, varies the images; what else is to be done is done to batches",
    "collate_fn": "a Batch is made already; what else is to be done is done to batches",
    "sampler": "shuffle='global', 'block' or 'none' is the order",
    "batch_sampler": "shuffle='global', 'block' or 'none' is the order, batch_size=N the size",
    "pin_memory": "with device='cuda' batches come from page-locked memory",
    "persistent_workers": "threads and processes live as long as the loader",
    "generator": "seed=N decides the order and the augmentation",
}


def meaning_in_dataloader(name: str) -> str:
    """Return the end of a message on an argument that ``torch.utils.data.DataLoader`` has and a loader lacks."""
    return f"; {_OF_DATALOADER[name]}" if name in _OF_DATALOADER else ""


MAX_SIZE = 4096  # pixels per side of the output
MAX_BATCH = 65536
MANY_SAMPLES = 4096  # in an epoch: from here on, a tenth of a second to start worker processes does not matter
# How many processes are started without being asked for: the thread that takes their batches keeps up with so many.
MOST_PROCESSES: dict[Storage, int] = {"raw": 8, "jpeg": 16}
MAX_WINDOW = 1_000_000  # shards
DEFAULT_SIZE: Size = (128, 128)  # where the stored images have none


def usable_cores() -> int:
    """Return how many cores this process may use; under torchrun, its share of the machine's."""
    local_ranks = os.environ.get("LOCAL_WORLD_SIZE", "1")  # set by torchrun
    return max(1, cores.usable_cores() // max(1, int(local_ranks[:9]) if local_ranks.isdecimal() else 1))


def resolve_shards(shards: str | Path | ShardSet, **stored: Any) -> ShardSet:
    """Return a set that is open already, or that a path or address names; ``stored`` as for ``ShardSet.open``."""
    if not isinstance(shards, ShardSet):
        expect_places(shards=shards)
        return ShardSet.open(shards, **stored)
    if any(value not in (None, "auto") for value in stored.values()):
        raise UsageError("this set is open already: give fetch, cache and cache_bytes to ShardSet.open")
    return shards


def resolve_augment(augment: str | Augmentation | None) -> Augmentation | None:
    """Return the augmentation that a name stands for."""
    if augment is None or isinstance(augment, Augmentation):
        return augment
    if isinstance(augment, str) and augment in get_args(Preset):
        return Augmentation.preset(cast("Preset", augment))
    raise UsageError(f"augment {shown_value(augment)} is unknown; use None, 'train', 'strong' or an Augmentation")


def resolve_device(device: "str | torch.device") -> "torch.device":
    """Return the device that a name stands for; "auto" is the current CUDA device, or the CPU where there is none."""
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError, ValueError):
        raise UsageError(f"device {shown_value(device)} is unknown; use auto, cpu, cuda or cuda:N") from None
    if chosen.type not in ("cpu", "cuda"):
        raise UsageError(f"device {str(device)!r} is not supported; use auto, cpu, cuda or cuda:N")
    if chosen.type == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UsageError(f"device {str(device)!r} is not available: PyTorch finds no CUDA device; use cpu or auto")
    number = torch.cuda.current_device() if chosen.index is None else chosen.index
    count = torch.cuda.device_count()
    if number >= count:
        raise UsageError(f"device cuda:{number} is not available: PyTorch finds {count} CUDA device(s)")
    return torch.device("cuda", number)


def resolve_size(size: Any, stored_size: Size | None) -> Size:
    """Return the (height, width) that a size stands for; None: the stored size, 128 where images have their own."""
    return stored_size or DEFAULT_SIZE if size is None else parse_size(size, most=MAX_SIZE)


def resolve_crop_scale(crop_scale: Any) -> Scales | None:
    """Return the range of a crop's scale, (min, max); ``UsageError`` unless it is one."""
    if crop_scale is None:
        return None
    try:
        least, most = map(float, crop_scale)
    except (TypeError, ValueError):
        least = most = float("nan")
    if not MIN_SCALE <= least <= most <= MAX_SCALE:
        raise UsageError(
            f"crop_scale must be (min, max), output pixels per image pixel, with {MIN_SCALE:g} <= min <= max <= "
            f"{MAX_SCALE:g}, not {shown_value(crop_scale)}"
        )
    return least, most


def resolve_shuffle(shuffle: Any, *, window: Any, training: bool) -> Shuffling:
    """Return how a split is shuffled; None: globally in training, else not at all. ``UsageError`` for anything else."""
    if shuffle is None or isinstance(shuffle, bool):
        shuffle = "global" if shuffle or (shuffle is None and training) else "none"
    if shuffle not in SHUFFLES:
        raise UsageError(f"shuffle {shown_value(shuffle)} is unknown; use True, False, {', '.join(SHUFFLES)}")
    if not is_whole_number(window, 1, MAX_WINDOW):
        given = shown_value(window)
        raise UsageError(f"shuffle_window must be a whole number of shards from 1 to {MAX_WINDOW}, not {given}")
    return Shuffling(kind=shuffle, window=window)


def resolve_ranks(*, rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Return (rank, world size): as given, else torch.distributed's where it is initialised, else (0, 1)."""
    if (rank is None) != (world_size is None):
        raise UsageError("give both rank and world_size, or neither")
    if rank is None or world_size is None:
        dist = sys.modules.get("torch.distributed")  # not imported: not initialised
        if dist is not None and dist.is_available() and dist.is_initialized():
            return dist.get_rank(), dist.get_world_size()
        return 0, 1
    if not is_whole_number(world_size, 1) or not is_whole_number(rank, 0, world_size - 1):
        raise UsageError(
            f"rank {rank!r} of world_size {world_size!r}: world_size must be at least 1, rank 0..world_size-1"
        )
    return rank, world_size


def check_numbers(*, batch_size: int, prefetch: int, threads: int | None, processes: int | None) -> None:
    """Raise ``UsageError`` unless each is a whole number within its bounds."""
    for name, value, least, most in (
        ("batch_size", batch_size, 1, MAX_BATCH),
        ("prefetch", prefetch, 1, 64),
        ("threads", 1 if threads is None else threads, 1, 1024),
        ("processes", 0 if processes is None else processes, 0, 64),
    ):
        if not is_whole_number(value, least, most):
            raise UsageError(f"{name} must be a whole number from {least} to {most}, not {shown_value(value)}")


def check_values(*, seed: Any, fit: Any, mask: Any, decode: Any, drop_last: Any, timeout: Any) -> None:
    """Raise ``UsageError`` unless each has a meaning."""
    if not is_whole_number(seed):
        raise UsageError(f"seed must be a whole number, not {shown_value(seed)}")
    if fit not in FITS:
        raise UsageError(f"fit {shown_value(fit)} is unknown; use {', '.join(FITS)}")
    if mask not in ("onehot", "index"):
        raise UsageError(f"mask {shown_value(mask)} is unknown; use onehot or index")
    if decode not in get_args(Decode):
        raise UsageError(f"decode {shown_value(decode)} is unknown; use {', '.join(get_args(Decode))}")
    if not isinstance(drop_last, bool):
        raise UsageError(f"drop_last must be True or False, not {shown_value(drop_last)}")
    if not is_number(timeout, 0, TIMEOUT_MAX) or not timeout:
        raise UsageError(
            f"timeout must be a number of seconds above 0 and up to {TIMEOUT_MAX:.0f}, not {shown_value(timeout)}"
        )


def are_small(stored_size: Size | None, size: Size) -> bool:
    """Whether all images are stored at no more than the output's size: none takes long, and none must be shrunk."""
    return stored_size is not None and stored_size[0] <= size[0] and stored_size[1] <= size[1]


def default_processes(*, threads: int | None, engine: str, storage: Storage, many_small: bool) -> int:
    """Return how many worker processes a loader has where that is not said; 0: threads make the batches.

    Processes win where batches of small images take threads less time than waiting for the interpreter's lock, and an
    epoch is long enough to make up for starting them: docs/performance.md has the figures.
    """
    cores = usable_cores()
    if threads is not None or engine != "torch" or not many_small or cores < 2 or not hasattr(os, "memfd_create"):
        return 0
    return min(cores, MOST_PROCESSES.get(storage, 0))


def check_processes(processes: int, *, threads: int | None, engine: str) -> None:
    """Raise ``UsageError`` where worker processes are requested that cannot be used."""
    if not processes:
        return
    if threads is not None:
        raise UsageError(f"threads={threads} and processes={processes}: give one of them; a process has one thread")
    if engine != "torch":
        raise UsageError(f"processes={processes} works with engine torch, not with {engine}; use threads")
    if not hasattr(os, "memfd_create"):
        raise UsageError(f"processes={processes} needs Linux; use threads")


def check_decoder(decoder: Any) -> None:
    """Raise ``UsageError`` for what are no options of DALI's decoder, also where another engine decodes."""
    if not isinstance(decoder, DecoderOptions | None):
        raise UsageError(f"decoder must be DecoderOptions, not {shown_value(decoder)}")


def check_process(creator: int) -> None:
    """Raise ``PetsegError`` in a child of the process that created a loader: the loader's threads are not there."""
    if os.getpid() != creator:
        raise PetsegError(
            "this process was forked after its loader was created, and a fork has none of the loader's threads; "
            "create the loader in the process that uses it"
        )


def checked_epoch(epoch: Any) -> int:
    """Return the number of an epoch; ``UsageError`` unless it is one."""
    if not is_whole_number(epoch, 0):
        raise UsageError(f"epoch must be a whole number of 0 or more, not {shown_value(epoch)}")
    return epoch


def check_slices(*, batch_size: int, world_size: int, shuffle: bool) -> None:
    """Raise ``UsageError`` where, in training, ranks would get slices of different lengths."""
    if shuffle and world_size > batch_size:
        raise UsageError(
            f"batch_size {batch_size} (global) is smaller than the {world_size} ranks: some would get nothing; for "
            f"shuffled training use {world_size} or a multiple of it"
        )
    if shuffle and batch_size % world_size:
        raise UsageError(
            f"batch_size {batch_size} (global) is not divisible by the {world_size} ranks; for shuffled training "
            f"use {batch_size // world_size * world_size} or {(batch_size // world_size + 1) * world_size}"
        )
