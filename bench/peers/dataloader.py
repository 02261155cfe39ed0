"""What peers on ``torch.utils.data.DataLoader`` share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from bench.peers.job import Job
from bench.peers.base import Delivered, usual_worker_counts
from bench.peers.sampling import EpochSampler


class DataLoaderPeer:
    """Runs a map-style dataset, whose items are (image, mask, index), in a DataLoader with lasting workers."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._sampler = EpochSampler(job)
        self._loader: Any = None

    def make_dataset(self) -> Any:
        """Return the dataset."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Nothing: it reads the files as they are."""

    def worker_counts(self) -> tuple[int, ...]:
        """Half, as many and twice as many as cores."""
        return usual_worker_counts(self.job.cores)

    def open(self, workers: int) -> None:
        """Make the DataLoader; its processes start with the first epoch and stay."""
        from torch.utils.data import DataLoader

        self._loader = DataLoader(
            self.make_dataset(),
            batch_size=self.job.batch_size,
            sampler=self._sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
        )

    def epoch(self, number: int) -> Iterator[Delivered]:
        """One epoch in our order."""
        self._sampler.number = number
        for image, mask, index in self._loader:
            yield Delivered(image, mask, np.asarray(index, dtype=np.int64))

    def close(self) -> None:
        """Drop the DataLoader, which ends its processes."""
        self._loader = None
