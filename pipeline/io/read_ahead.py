"""Samples of local tars that will be needed are announced to the kernel, in the order in which they are stored.

A shuffled epoch reads at random places, one batch after another, so that a disk would be waited for at every batch. The
order is known, so what the batches to come need is requested long before, sorted, neighbours together
(``posix_fadvise``). What has been announced once is taken to be in the page cache, unless the tars exceed it.
"""

import contextlib
import os
from collections.abc import Sequence

import numpy as np

from pipeline.io.tar_files import Indices, TarFiles, VerifiedSamples
from shards.errors import PetsegError
from shards.format.layout import Rows
from shards.store.byte_ranges import MOST_GAP

MOST_AHEAD = 1 << 26  # bytes of samples that are announced before the batches that need them


class ReadAhead:
    """Announces samples of a split."""

    def __init__(self, files: TarFiles, samples: int) -> None:
        self._files, self._left = files, samples
        self._announced = VerifiedSamples(samples)  # a bit for each

    @property
    def wanted(self) -> bool:
        """Whether any sample may still have to be announced."""
        return hasattr(os, "posix_fadvise") and (self._left > 0 or not self._files.fit_memory)

    def announce(self, indices: Sequence[Indices], rows: Sequence[Rows]) -> None:
        """Announce the samples of some batches; what cannot be opened is reported by the read that follows."""
        numbers, chosen = np.unique(np.concatenate(indices), return_index=True)
        if self._files.fit_memory:
            new = ~self._announced[numbers]
            numbers, chosen = numbers[new], chosen[new]
            self._announced.add(numbers)
            self._left -= len(numbers)
        records = np.concatenate(rows)[chosen]  # in the order of their numbers: that in which they are stored
        if not len(records):
            return
        shards, starts = records["shard"].astype(np.int64), records["image_offset"].astype(np.int64)
        ends = (records["mask_offset"] + records["mask_length"]).astype(np.int64)
        apart = (shards[1:] != shards[:-1]) | (starts[1:] - ends[:-1] > MOST_GAP)
        first = np.flatnonzero(np.concatenate([[True], apart]))
        last = np.concatenate([first[1:], [len(records)]]) - 1
        for shard, start, end in zip(
            *(part.tolist() for part in (shards[first], starts[first], ends[last])), strict=True
        ):
            with contextlib.suppress(PetsegError, OSError):
                os.posix_fadvise(self._files.open(shard).descriptor, start, end - start, os.POSIX_FADV_WILLNEED)
