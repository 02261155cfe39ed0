"""The order of an epoch: which sample is at which position, for every kind of shuffling.

An order is a pure function of the seed, the epoch and the set; it is evaluated at the positions that are asked for, and
knows nothing of batches, ranks or files. Whoever reads whole shards can ask which ones the positions to come need.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal, Protocol, TypeAlias, get_args

import numpy as np

from pipeline.order.feistel import FeistelPermutation
from pipeline.order.hashing import derive
from pipeline.order.permutation import Indices, permutation_of_key

Shuffle: TypeAlias = Literal["global", "block", "none"]
SHUFFLES: Final[tuple[Shuffle, ...]] = get_args(Shuffle)

# Up to so many samples are sorted by their hashes, as ever since the first release: 8 MiB and a tenth of a second for
# an epoch. More are permuted by a Feistel network, which takes neither. See docs/performance.md.
MOST_SORTED: Final = 1 << 20

_GLOBAL, _SHARDS, _WINDOW = 1, 3, 4  # purposes of random numbers; 2 is the augmentation's


class EpochOrder(Protocol):
    """``order[positions]`` are the indices of samples, int64, of the same shape as the positions (or integer) given."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, positions: Any) -> Any:
        """Return the indices of samples."""


def keyed_permutation(key: int, n: int) -> "Indices | FeistelPermutation":
    """Return a permutation of 0..n-1 by a 64-bit key, to be indexed by positions."""
    return permutation_of_key(key, n) if n <= MOST_SORTED else FeistelPermutation(key, n)


class StoredOrder:
    """The order in which samples are stored."""

    def __init__(self, samples: int) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, positions: Any) -> Any:
        return np.asarray(positions, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Window:
    """Some shards, whose samples are permuted together."""

    shards: Indices  # their numbers, (K,)
    first: int  # position in the epoch of the first of its samples
    samples: int
    key: int
    starts: Indices  # the index of the first sample of each shard, (K,)
    ends: Indices  # how many samples the shards up to each one have, itself included, (K,)

    @cached_property
    def permutation(self) -> "Indices | FeistelPermutation":
        """The order of its samples, counted from the first one of its first shard."""
        return keyed_permutation(self.key, self.samples)

    def indices(self, positions: Indices) -> Indices:
        """Return the indices of the samples at positions of the epoch that belong to this window, (n,)."""
        numbers = self.permutation[positions - self.first]
        shards = np.searchsorted(self.ends, numbers, side="right")
        before = np.concatenate([[0], self.ends[:-1]])
        return np.asarray(self.starts[shards] + numbers - before[shards])


class BlockOrder:
    """Shards in random order, and the samples of every ``window`` consecutive ones of them permuted together.

    Only the shards of one window are needed at a time, and at the end of a window those of the next one.
    """

    def __init__(self, seed: int, epoch: int, *, starts: Indices, window: int) -> None:
        """Define the order of an epoch.

        Args:
            seed: of the run.
            epoch: from 0.
            starts: the index of each shard's first sample, then the number of samples; (shards + 1,).
            window: how many shards are permuted together, at least 1.
        """
        count = len(starts) - 1
        self._starts, self._epoch, self._seed = starts, epoch, seed
        self._shards = np.asarray(keyed_permutation(derive(seed, epoch, _SHARDS), count)[np.arange(count)])
        self._width = window
        ends = np.cumsum(np.diff(starts)[self._shards])
        lasts = np.minimum(np.arange(window, count + window, window), count) - 1
        self._ends: Indices = ends[lasts]  # of each window: the position after its last sample
        self._recent: tuple[tuple[int, Window], ...] = ()  # replaced as a whole: several threads may ask

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, positions: Any) -> Any:
        wanted = np.asarray(positions, dtype=np.int64)
        flat = wanted.reshape(-1)
        windows = np.searchsorted(self._ends, flat, side="right")
        found = np.empty(len(flat), dtype=np.int64)
        for number in dict.fromkeys(windows.tolist()):
            chosen = windows == number
            found[chosen] = self._window(number).indices(flat[chosen])
        return found.reshape(wanted.shape)

    def _window(self, number: int) -> Window:
        for known, window in self._recent:
            if known == number:
                return window
        shards = self._shards[number * self._width : (number + 1) * self._width]
        sizes = self._starts[shards + 1] - self._starts[shards]
        end = int(self._ends[number])
        window = Window(
            shards=shards,
            first=end - int(sizes.sum()),
            samples=int(sizes.sum()),
            key=derive(self._seed, self._epoch, _WINDOW, number),
            starts=self._starts[shards],
            ends=np.cumsum(sizes),
        )
        self._recent = ((number, window), *self._recent[:1])  # a batch may reach into the next one
        return window


class GlobalOrder:
    """All samples in random order."""

    def __init__(self, seed: int, epoch: int, samples: int) -> None:
        self._order = keyed_permutation(derive(seed, epoch, _GLOBAL), samples)

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, positions: Any) -> Any:
        return self._order[positions]


@dataclass(frozen=True, kw_only=True)
class Shuffling:
    """How a split is shuffled."""

    kind: Shuffle
    window: int  # shards, for ``block``

    @property
    def every_epoch(self) -> bool:
        """Whether each epoch has its own order."""
        return self.kind != "none"

    def bound_value(self, samples: int) -> bool | str:
        """Return what a saved position is valid for, as a JSON value; True and False mean what they always did."""
        if self.kind == "block":
            return f"block, windows of {self.window} shards"
        if self.kind == "global" and samples > MOST_SORTED:
            return "global, by a Feistel network"
        return self.every_epoch

    def order(self, seed: int, epoch: int, *, starts: Indices) -> EpochOrder:
        """Return the order of an epoch; ``starts`` as in :class:`BlockOrder`."""
        if self.kind == "block":
            return BlockOrder(seed, epoch, starts=starts, window=self.window)
        samples = int(starts[-1])
        return GlobalOrder(seed, epoch, samples) if self.kind == "global" else StoredOrder(samples)
