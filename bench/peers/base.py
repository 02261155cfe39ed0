"""What a loader must do to be compared: the same protocol for ours and all others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from bench.peers.job import Job

if TYPE_CHECKING:
    import torch

EPOCHS_DRAWN = 8  # epochs of augmentation parameters that peers get beforehand; later epochs use them again


@dataclass(frozen=True, slots=True)
class Delivered:
    """One batch as delivered, B samples.

    Attributes:
        image: uint8 (B, 3, S, S), red-green-blue, in any memory format.
        mask: uint8 (B, 3, S, S), one-hot: animal, background, border; or uint8 (B, S, S) with 0, 1, 2, as the job says.
        index: int64 (B,), which sample of the split; -1 for padding, which is not counted.
    """

    image: torch.Tensor
    mask: torch.Tensor
    index: npt.NDArray[np.int64]


class Peer(Protocol):
    """A loader under comparison. ``make(job)`` in its module returns one; nothing is read before :meth:`open`."""

    def prepare(self) -> None:
        """Convert the pictures into the loader's own format, in ``job.work``; timed apart. May do nothing."""

    def worker_counts(self) -> tuple[int, ...]:
        """Return the numbers of workers worth trying; empty where there is nothing to choose."""

    def open(self, workers: int) -> None:
        """Make ready to deliver; called again with another number after :meth:`close`."""

    def epoch(self, number: int) -> Iterator[Delivered]:
        """Deliver every sample of the split once, in an order of its own for each ``number`` (0, 1, ...).

        With ``job.augment``, sample i of epoch n gets our augmentation parameters of that epoch, or where they are
        drawn beforehand, of epoch ``n % EPOCHS_DRAWN``.
        """

    def files(self) -> list[Path]:
        """Return the files that an epoch reads, for dropping them from the page cache."""

    def close(self) -> None:
        """Stop workers and release files."""


def usual_worker_counts(cores: int) -> tuple[int, ...]:
    """Return what one would try for a DataLoader: half, as many, and twice as many processes as cores."""
    return tuple(sorted({max(1, cores // 2), cores, 2 * cores}))


def folder_files(*folders: Path) -> list[Path]:
    """Return all files under some folders."""
    return sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())


def split_files(job: Job, *suffixes: str) -> list[Path]:
    """Return the files of the job's split in its shard set, e.g. its tars."""
    return sorted(path for path in Path(job.shards).glob(f"{job.split}-*") if path.suffix in suffixes)
