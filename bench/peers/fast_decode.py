"""Fast decoding that several peers share, so that what differs between them is the loader.

libjpeg-turbo decodes at a reduced scale (simplejpeg), OpenCV does the rest: what one writes to tune a DataLoader.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from bench.peers.base import EPOCHS_DRAWN
from bench.peers.job import Job
from pipeline.order.augmentation import Augmentation, colour_matrices, draw_parameters
from shards.format.dataset import ShardSet

if TYPE_CHECKING:
    import torch

Pixels = npt.NDArray[np.uint8]
_CLASS_VALUES = np.array([1, 2, 3], dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class DecodedSample:
    """One sample: image (S, S, 3), mask (S, S) with the stored values 1, 2, 3, index in the split."""

    image: Pixels
    mask: Pixels
    index: int


class AugmentationTable:
    """The augmentation of every sample in :data:`EPOCHS_DRAWN` epochs: petseg's parameters, drawn beforehand.

    ``boxes`` are int32 (epochs, samples, 4): top, left, height, width in pixels of the stored image; ``flip`` is bool
    (epochs, samples); ``matrices`` are float32 (epochs, samples, 3, 4): colour, ``m[:, :3] @ rgb + m[:, 3]``.
    """

    def __init__(self, job: Job) -> None:
        shard_set = ShardSet.open(job.shards)
        split = shard_set.split(job.split)
        indices = np.arange(len(split))
        rows = split.rows(indices)
        stored = shard_set.manifest.size
        heights, widths = (
            rows[side].astype(np.int64) if stored is None else np.full(len(rows), stored)
            for side in ("height", "width")
        )
        drawn = [
            draw_parameters(Augmentation(), seed=job.seed, epoch=epoch, indices=indices, heights=heights, widths=widths)
            for epoch in range(EPOCHS_DRAWN)
        ]
        self.boxes: npt.NDArray[np.int32] = np.stack([parameters.boxes for parameters in drawn])
        self.flip: npt.NDArray[np.bool_] = np.stack([parameters.flip for parameters in drawn])
        colours = [colour_matrices(parameters) for parameters in drawn]
        self.matrices: npt.NDArray[np.float32] = np.stack(
            [np.concatenate([matrix, offset[:, :, None]], axis=2) for matrix, offset in colours]
        )


class FastDecoder:
    """Turns the stored bytes of a sample into a :class:`DecodedSample`; thread-safe."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._augmentation = AugmentationTable(job) if job.augment else None

    def __call__(self, image: bytes, mask: bytes, index: int, epoch: int = 0) -> DecodedSample:
        """Decode image and mask as the job's storage holds them, and crop, resize, flip and colour them."""
        size, augmentation = self._job.size, self._augmentation
        if augmentation is None:
            pixels, values = self._decode(image, mask, box=None)
            return DecodedSample(_resize_image(pixels, size), _resize(values, size, cv2.INTER_NEAREST_EXACT), index)
        which = epoch % EPOCHS_DRAWN, index
        top, left, height, width = augmentation.boxes[which].tolist()
        pixels, values = self._decode(image, mask, box=(height, width))
        scale_y, scale_x = pixels.shape[0] / values.shape[0], pixels.shape[1] / values.shape[1]
        pixels = _resize_image(pixels[_scaled(top, height, scale_y), _scaled(left, width, scale_x)], size)
        values = _resize(values[top : top + height, left : left + width], size, cv2.INTER_NEAREST_EXACT)
        if augmentation.flip[which]:
            pixels, values = np.asarray(cv2.flip(pixels, 1)), np.asarray(cv2.flip(values, 1))
        coloured: Any = cv2.transform(pixels, augmentation.matrices[which])
        return DecodedSample(coloured, values, index)

    def _decode(self, image: bytes, mask: bytes, *, box: tuple[int, int] | None) -> tuple[Pixels, Pixels]:
        """Return the image, at a scale at which the crop box is not below the output size, and the mask."""
        if self._job.storage == "raw":
            return _read_npy(image, channels=3), _read_npy(mask, channels=1)
        values: Any = cv2.imdecode(np.frombuffer(mask, np.uint8), cv2.IMREAD_GRAYSCALE)
        height = width = self._job.size
        if box is not None:
            height = -(-height * values.shape[0] // box[0])
            width = -(-width * values.shape[1] // box[1])
        return _decode_image(image, min(height, values.shape[0]), min(width, values.shape[1])), values


class DecodedFiles:
    """A map-style dataset over image and mask files; items are numbered as :class:`EpochSampler` numbers them."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._keys = job.read_keys()
        self._decode = FastDecoder(job)

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, number: int) -> DecodedSample:
        epoch, index = divmod(number, len(self._keys))
        key = self._keys[index]
        return self._decode(self._job.image_path(key).read_bytes(), self._job.mask_path(key).read_bytes(), index, epoch)


def decoded_rows(dataset_class: Any, job: Job, **options: Any) -> Any:
    """Return a ``dataset_class(**options)`` that decodes the rows of a :class:`ConvertedPeer`, and counts epochs."""

    class DecodedRows(dataset_class):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(**options)
            self._decode = FastDecoder(job)
            self._epoch = -1

        def __iter__(self) -> Iterator[Any]:
            self._epoch += 1
            found: Iterator[Any] = super().__iter__()
            return found

        def __getitem__(self, at: Any) -> DecodedSample:
            row = super().__getitem__(at)
            return self._decode(row["image"], row["mask"], row["index"], self._epoch)

    return DecodedRows()


def collate(samples: Sequence[DecodedSample], *, onehot: bool) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
    """Return images (B, S, S, 3), masks, one-hot (B, S, S, 3) or classes 0, 1, 2 (B, S, S), and indices, int64 (B,)."""
    import torch

    image = np.stack([sample.image for sample in samples])
    values = np.stack([sample.mask for sample in samples])
    mask = (values[..., None] == _CLASS_VALUES).view(np.uint8) if onehot else values - np.uint8(1)
    index = np.array([sample.index for sample in samples], dtype=np.int64)
    return torch.from_numpy(image), torch.from_numpy(mask), torch.from_numpy(index)


def _scaled(start: int, length: int, scale: float) -> slice:
    """Return the pixels of a crop in a scaled image, at least one."""
    first = round(start * scale)
    return slice(first, max(round((start + length) * scale), first + 1))


def _read_npy(data: bytes, *, channels: int) -> Pixels:
    """Return the pixels of a square uint8 ``.npy`` member, as a view of the bytes after its header."""
    length = int.from_bytes(data[8:10], "little") + 10
    pixels = np.frombuffer(data, np.uint8, offset=length)
    side = round((len(pixels) / channels) ** 0.5)
    return pixels.reshape((side, side, 3) if channels == 3 else (side, side))


def _decode_image(data: bytes, height: int, width: int) -> Pixels:
    if data[:2] == b"\xff\xd8":
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width)
        return pixels
    # a GIF or PNG with the ending of a JPEG, which the source itself may hold
    found: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return np.asarray(found[:, :, ::-1])


def _resize_image(pixels: Pixels, size: int) -> Pixels:
    shrinks = min(pixels.shape[:2]) >= size
    return _resize(pixels, size, cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _resize(pixels: Pixels, size: int, how: int) -> Pixels:
    if pixels.shape[:2] == (size, size):
        return pixels
    return np.asarray(cv2.resize(pixels, (size, size), interpolation=how))
