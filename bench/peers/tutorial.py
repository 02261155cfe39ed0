"""What the tutorial does: open a JPEG and a PNG per sample with PIL, resize, stack three masks, leave the rest to
DataLoader. Mended only where its output must be comparable: masks by the nearest pixel, tensors uint8.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from bench.peers.job import Job
from bench.peers.base import folder_files
from bench.peers.dataloader import DataLoaderPeer
from bench.peers.sampling import Drawn

if TYPE_CHECKING:
    import torch

Item = tuple["torch.Tensor", "torch.Tensor", int]


class TutorialDataset:
    """A map-style dataset of (image, mask, index)."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._keys = job.read_keys()
        self._drawn = Drawn(job) if job.augment else None

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, drawn_index: int) -> Item:
        import torch

        epoch, index = divmod(drawn_index, len(self._keys))
        key, size = self._keys[index], (self._job.size, self._job.size)
        image: Image.Image = Image.open(self._job.image_path(key)).convert("RGB")
        trimap: Image.Image = Image.open(self._job.mask_path(key))
        if self._drawn is not None:
            top, left, height, width = self._drawn.boxes[epoch, index].tolist()
            box = (left, top, left + width, top + height)
            image, trimap = image.crop(box), trimap.crop(box)
        image = image.resize(size, Image.Resampling.BILINEAR)
        trimap = trimap.resize(size, Image.Resampling.NEAREST)
        if self._drawn is not None:
            if self._drawn.flip[epoch, index]:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
                trimap = trimap.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            image = image.convert("RGB", tuple(self._drawn.matrices[epoch, index].ravel().tolist()))
        classes = np.asarray(trimap)
        one_hot = [classes == 1, classes == 2, classes == 3]
        mask = np.stack(one_hot).astype(np.uint8) if self._job.onehot else classes - np.uint8(1)
        pixels = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
        return torch.from_numpy(pixels), torch.from_numpy(mask), index


class Tutorial(DataLoaderPeer):
    """The tutorial's dataset in a DataLoader."""

    def make_dataset(self) -> TutorialDataset:
        """Return the dataset over the picture files."""
        return TutorialDataset(self.job)

    def files(self) -> list[Path]:
        """The pictures and trimaps."""
        return folder_files(Path(self.job.files))


def make(job: Job) -> Tutorial:
    """Return the peer."""
    return Tutorial(job)
