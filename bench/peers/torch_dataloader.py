"""``torch.utils.data.DataLoader``, as the tutorial uses it and tuned.

The tutorial opens an image and a mask per sample with PIL, resizes, stacks a mask per class, and leaves the rest to
DataLoader. It is changed only where its output must be comparable: masks by the nearest pixel, tensors uint8. The tuned
version is what profiling leads to: scaled JPEG decoding, OpenCV, batched one-hot.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from bench.peers.fast_decode import DecodedFiles, are_powers_of_two, draw_beforehand, loader_options, resize_mask
from bench.peers.peer import SCALED, Delivered, FilePeer, Job
from shards.format.geometry import PAD_COLOUR

if TYPE_CHECKING:
    import torch


class TutorialDataset:
    """A map-style dataset of (image, mask, index), from the files that the set was made from where they are known."""

    def __init__(self, job: Job) -> None:
        self._job, self._samples, self._labels = job, job.files.originals, job.files.labels
        self._drawn, self._colours = draw_beforehand(job)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> "tuple[torch.Tensor, torch.Tensor, int]":
        import torch

        image_path, mask_path = self._samples[index]
        image: Image.Image = Image.open(image_path).convert("RGB")
        values: Image.Image = Image.open(mask_path)
        if self._labels.rgb:
            values = values.convert("RGB")
        top, left, height, width = self._drawn.boxes[index].tolist()
        row, column, inner_height, inner_width = self._drawn.places[index].tolist()
        box, inner = (left, top, left + width, top + height), (inner_width, inner_height)
        if box != (0, 0, *image.size):
            image, values = image.crop(box), values.crop(box)
        image = image.resize(inner, Image.Resampling.BILINEAR)
        if are_powers_of_two((inner_height, inner_width)):
            values = values.resize(inner, Image.Resampling.NEAREST)
        else:  # where Pillow rounds otherwise than petseg
            values = Image.fromarray(resize_mask(np.asarray(values), (inner_height, inner_width)))
        if self._drawn.flip[index]:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            values = values.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self._colours is not None:
            image = image.convert("RGB", tuple(self._colours[index].ravel().tolist()))
        pixels, classes = np.asarray(image), self._classes(values)
        if (inner_height, inner_width) != self._job.size:
            around = [(row, self._job.size[0] - row - inner_height), (column, self._job.size[1] - column - inner_width)]
            classes = np.pad(classes, around, constant_values=255)
            pixels = np.stack([np.pad(pixels[..., i], around, constant_values=PAD_COLOUR[i]) for i in range(3)], axis=2)
        mask = classes
        if self._job.onehot:
            mask = np.stack([classes == each for each in range(self._job.classes)]).astype(np.uint8)
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))), torch.from_numpy(mask), index

    def _classes(self, values: Image.Image) -> npt.NDArray[np.uint8]:
        """Return class indices, uint8 (H, W), and 255, for a mask of the source's values or colours."""
        pixels = np.asarray(values)
        if not self._labels.rgb:
            return np.asarray(self._labels.index_table()[0][pixels])
        packed = pixels.astype(np.int32) @ (1 << 16, 1 << 8, 1)
        return np.asarray(self._labels.colour_table()[packed].astype(np.uint8))


class TutorialPeer(FilePeer):
    """The tutorial's dataset in a DataLoader with persistent workers."""

    name, augments = "tutorial", True

    def open(self) -> None:
        from torch.utils.data import DataLoader

        data: Any = TutorialDataset(self.job)
        self._loader = DataLoader(data, batch_size=self.job.batch_size, sampler=self, num_workers=self.job.workers,
                                  persistent_workers=self.job.workers > 0)  # fmt: skip

    def epoch(self, number: int) -> Iterator[Delivered]:
        """Deliver one epoch; the batches are (B, C, H, W) already."""
        for image, mask, index in self._loader:
            yield Delivered(image, mask, np.asarray(index, dtype=np.int64))

    def files(self) -> list[Path]:
        return [Path(path) for pair in self.job.files.originals for path in pair]


class TunedPeer(FilePeer):
    """Fast decoding in a DataLoader with persistent workers."""

    name, augments, caveats = "tuned", True, (SCALED,)

    def open(self) -> None:
        from torch.utils.data import DataLoader

        data: Any = DecodedFiles(self.job)
        self._loader = DataLoader(data, sampler=self, prefetch_factor=4 if self.job.workers else None,
                                  **loader_options(self.job))  # fmt: skip
