"""The same Dataset and DataLoader by someone who has profiled them: scaled JPEG decoding, OpenCV, batched one-hot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers.job import Job
from bench.peers.base import Delivered, folder_files
from bench.peers.dataloader import DataLoaderPeer
from bench.peers.fast_decode import FastDecoder, Item, Tensors, deliver


class TunedDataset:
    """A map-style dataset of items."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._keys = job.read_keys()
        self._decode = FastDecoder(job)

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, drawn_index: int) -> Item:
        epoch, index = divmod(drawn_index, len(self._keys))
        key = self._keys[index]
        image, trimap = self._job.image_path(key).read_bytes(), self._job.mask_path(key).read_bytes()
        return self._decode(image, trimap, index, epoch)


class Tuned(DataLoaderPeer):
    """The tuned dataset in a DataLoader."""

    def make_dataset(self) -> Any:
        """Return the dataset over the picture files."""
        return TunedDataset(self.job)

    def open(self, workers: int) -> None:
        """Make the DataLoader, with a collate function of its own."""
        from torch.utils.data import DataLoader

        self._loader = DataLoader(
            self.make_dataset(),
            batch_size=self.job.batch_size,
            sampler=self._sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=Tensors(self.job.onehot),
            pin_memory=self.job.device == "cuda",
            prefetch_factor=4 if workers else None,
        )

    def epoch(self, number: int) -> Iterator[Delivered]:
        """One epoch in our order."""
        self._sampler.number = number
        for image, mask, index in self._loader:
            yield deliver(image, mask, np.asarray(index))

    def files(self) -> list[Path]:
        """The pictures and trimaps."""
        return folder_files(Path(self.job.files))


def make(job: Job) -> Tuned:
    """Return the peer."""
    return Tuned(job)
