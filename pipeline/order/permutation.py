"""The order of an epoch and the slices of its batches, as pure arithmetic.

Position p of an epoch belongs to global batch ``p // G``. Nothing here depends on the number of ranks or threads, or on
how far a loader has prefetched.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.order.hashing import derive, hash_counters

Indices = npt.NDArray[np.int64]

_PURPOSE = 1  # keeps these random numbers apart from those of the augmentation


def permutation(seed: int, epoch: int, n: int) -> Indices:
    """Return the order of the samples in an epoch: a permutation of 0..n-1, int64, shape (n,).

    The samples are sorted by a 64-bit hash of (seed, epoch, sample). The hash is a bijection of the sample's number,
    so there are no ties and the result does not depend on the sorting algorithm.
    """
    return permutation_of_key(derive(seed, epoch, _PURPOSE), n)


def permutation_of_key(key: int, n: int) -> Indices:
    """Return the permutation of 0..n-1 that a 64-bit key stands for, int64, shape (n,); see :func:`permutation`."""
    return np.argsort(hash_counters(key, np.arange(n, dtype=np.uint64))).astype(np.int64, copy=False)


@dataclass(frozen=True, kw_only=True)
class BatchSlices:
    """How N samples are divided into global batches of G, and a global batch into the slices of W ranks."""

    samples: int  # N, of the split, at least 1
    batch_size: int  # G, at least 1
    rank: int = 0  # r, which slice this process takes, 0..W-1
    world_size: int = 1  # W
    drop_last: bool = False  # whether an incomplete last batch is left out, unless it is the only one

    @property
    def batches(self) -> int:
        """The number of batches in an epoch: N / G, rounded up, or with ``drop_last`` down; at least 1."""
        return max(1, self.samples // self.batch_size) if self.drop_last else -(-self.samples // self.batch_size)

    @property
    def epoch_samples(self) -> int:
        """The number of samples in an epoch: N, but with ``drop_last`` those of complete batches."""
        return min(self.samples, self.batches * self.batch_size)

    @property
    def slice(self) -> range:
        """This rank's positions in every global batch: [G r // W, G (r + 1) // W)."""
        return range(
            self.batch_size * self.rank // self.world_size, self.batch_size * (self.rank + 1) // self.world_size
        )

    def valid_in_batch(self, batch: int) -> int:
        """Return the number of samples of global batch ``batch`` that are not padding, over all ranks."""
        return max(0, min(self.batch_size, self.samples - batch * self.batch_size))

    def valid_on_rank(self, batch: int) -> int:
        """Return the number of this rank's samples of global batch ``batch`` that are not padding."""
        left = self.samples - batch * self.batch_size - self.slice.start
        return max(0, min(len(self.slice), left))

    def indices(self, order: Any, batch: int, batches: int = 1) -> tuple[Indices, npt.NDArray[np.bool_]]:
        """Return this rank's samples of a global batch, int64 (B,), and whether each is valid, bool (B,).

        Of several consecutive batches, from ``batch`` on, one after the other: (batches B,).
        B is ``len(self.slice)``; ``order`` is the epoch's: an array (N,) or another
        :class:`pipeline.order.epoch_order.EpochOrder`. An incomplete last batch is padded with samples from
        the start of the same epoch; those are not valid.
        """
        starts = np.arange(batch, batch + batches, dtype=np.int64) * self.batch_size
        positions = (starts[:, None] + np.arange(self.slice.start, self.slice.stop)).reshape(-1)
        return order[positions % self.samples], positions < self.samples
