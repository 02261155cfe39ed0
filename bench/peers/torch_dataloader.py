"""``torch.utils.data.DataLoader``, as the tutorial uses it and tuned.

The tutorial opens a JPEG and a PNG per sample with PIL, resizes, stacks three masks, and leaves the rest to DataLoader.
It is changed only where its output must be comparable: masks by the nearest pixel, tensors uint8. The tuned version is
what profiling leads to: scaled JPEG decoding, OpenCV, batched one-hot.
"""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from bench.peers.base import Delivered, FilePeer
from bench.peers.fast_decode import AugmentationTable, DecodedFiles, collate
from bench.peers.job import Job

if TYPE_CHECKING:
    import torch


class TutorialDataset:
    """A map-style dataset of (image, mask, index)."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._keys = job.read_keys()
        self._augmentation = AugmentationTable(job) if job.augment else None

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, number: int) -> "tuple[torch.Tensor, torch.Tensor, int]":
        import torch

        epoch, index = divmod(number, len(self._keys))
        key, size = self._keys[index], (self._job.size, self._job.size)
        image: Image.Image = Image.open(self._job.image_path(key)).convert("RGB")
        values: Image.Image = Image.open(self._job.mask_path(key))
        if self._augmentation is not None:
            top, left, height, width = self._augmentation.boxes[epoch, index].tolist()
            box = (left, top, left + width, top + height)
            image, values = image.crop(box), values.crop(box)
        image = image.resize(size, Image.Resampling.BILINEAR)
        values = values.resize(size, Image.Resampling.NEAREST)
        if self._augmentation is not None:
            if self._augmentation.flip[epoch, index]:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
                values = values.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            image = image.convert("RGB", tuple(self._augmentation.matrices[epoch, index].ravel().tolist()))
        pixels = np.asarray(values)
        one_hot = [pixels == 1, pixels == 2, pixels == 3]
        mask = np.stack(one_hot).astype(np.uint8) if self._job.onehot else pixels - np.uint8(1)
        planes = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
        return torch.from_numpy(planes), torch.from_numpy(mask), index


class TutorialPeer(FilePeer):
    """The tutorial's dataset in a DataLoader with persistent workers."""

    def open(self, workers: int) -> None:
        """Make the DataLoader; its processes start with the first epoch."""
        from torch.utils.data import DataLoader

        self._loader = DataLoader(
            TutorialDataset(self.job),  # type: ignore[arg-type]
            batch_size=self.job.batch_size,
            sampler=self.sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
        )

    def epoch(self, number: int) -> Iterator[Delivered]:
        """Deliver one epoch in petseg's order; the batches are (B, C, S, S) already."""
        self.sampler.number = number
        for image, mask, index in self._loader:
            yield Delivered(image, mask, np.asarray(index, dtype=np.int64))


class TunedPeer(FilePeer):
    """Fast decoding in a DataLoader with persistent workers."""

    def open(self, workers: int) -> None:
        """Make the DataLoader; its processes start with the first epoch."""
        from torch.utils.data import DataLoader

        self._loader = DataLoader(
            DecodedFiles(self.job),  # type: ignore[arg-type]
            batch_size=self.job.batch_size,
            sampler=self.sampler,
            collate_fn=partial(collate, onehot=self.job.onehot),
            prefetch_factor=4 if workers else None,
            **self.loader_options(workers),
        )
