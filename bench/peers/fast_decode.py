"""Fast functions that several peers share, so that what differs between them is the loader.

libjpeg-turbo decodes at a reduced scale (simplejpeg), OpenCV does the rest: what one writes who tunes a DataLoader.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bench.peers.job import Job
from bench.peers.base import Delivered
from bench.peers.sampling import Drawn

if TYPE_CHECKING:
    import torch

Pixels = npt.NDArray[np.uint8]
_CLASSES = np.array([1, 2, 3], dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class Item:
    """One sample: picture (S, S, 3), trimap (S, S) with values 1, 2, 3, index in the split."""

    image: Pixels
    trimap: Pixels
    index: int


class FastDecoder:
    """Turns the stored bytes of a sample into an :class:`Item`; safe for several threads."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._drawn = Drawn(job) if job.augment else None

    def __call__(self, image: bytes, trimap: bytes, index: int, epoch: int = 0) -> Item:
        """Decode, crop, resize, mirror and colour one sample.

        Args:
            image: of the picture, as the job's storage holds it.
            trimap: likewise.
            index: of the sample.
            epoch: whose augmentation parameters are used.
        """
        size = self._job.size
        if self._drawn is None:
            pixels, classes = self._decode(image, trimap, size, size, box=None)
            return Item(_resize_image(pixels, size), _resize_trimap(classes, size), index)
        top, left, height, width = self._drawn.boxes[epoch, index].tolist()
        pixels, classes = self._decode(image, trimap, size, size, box=(height, width))
        scale_y, scale_x = pixels.shape[0] / classes.shape[0], pixels.shape[1] / classes.shape[1]
        rows = slice(round(top * scale_y), max(round((top + height) * scale_y), round(top * scale_y) + 1))
        columns = slice(round(left * scale_x), max(round((left + width) * scale_x), round(left * scale_x) + 1))
        pixels = _resize_image(pixels[rows, columns], size)
        classes = _resize_trimap(classes[top : top + height, left : left + width], size)
        return self._coloured(pixels, classes, epoch, index)

    def _coloured(self, pixels: Pixels, classes: Pixels, epoch: int, index: int) -> Item:
        import cv2

        assert self._drawn is not None
        if self._drawn.flip[epoch, index]:
            pixels, classes = np.asarray(cv2.flip(pixels, 1)), np.asarray(cv2.flip(classes, 1))
        coloured: Any = cv2.transform(pixels, self._drawn.matrices[epoch, index])
        return Item(coloured, classes, index)

    def _decode(
        self, image: bytes, trimap: bytes, height: int, width: int, *, box: tuple[int, int] | None
    ) -> tuple[Pixels, Pixels]:
        """Return the picture, at a scale at which the box is not below height x width, and the trimap."""
        import cv2

        if self._job.storage == "raw":
            return decode_npy(image, 3), decode_npy(trimap, 1)
        classes: Any = cv2.imdecode(np.frombuffer(trimap, np.uint8), cv2.IMREAD_GRAYSCALE)
        if box is not None:
            height = -(-height * classes.shape[0] // box[0])
            width = -(-width * classes.shape[1] // box[1])
        return _decode_image(image, min(height, classes.shape[0]), min(width, classes.shape[1])), classes


def collate(items: Sequence[Item], *, onehot: bool, pin: bool = False) -> Delivered:
    """Stack items into one batch: tensors channels_last, masks one-hot or class indices."""
    image, mask, index = stack(items, onehot=onehot)
    return deliver(image, mask, index, pin=pin)


def stack(items: Sequence[Item], *, onehot: bool) -> tuple[Pixels, Pixels, npt.NDArray[np.int64]]:
    """Return pictures (B, S, S, 3), masks, one-hot (B, S, S, 3) or classes 0, 1, 2 (B, S, S), and indices (B,)."""
    image = np.stack([item.image for item in items])
    trimaps = np.stack([item.trimap for item in items])
    mask = (trimaps[..., None] == _CLASSES).view(np.uint8) if onehot else trimaps - np.uint8(1)
    return image, mask, np.array([item.index for item in items], dtype=np.int64)


def deliver(image: Pixels | Any, mask: Pixels | Any, index: Any, *, pin: bool = False) -> Delivered:
    """Return arrays or tensors (B, S, S, C) as a batch (B, C, S, S), not copied unless pinned; (B, S, S) as it is."""
    import torch

    tensors = [torch.as_tensor(pixels) for pixels in (image, mask)]
    tensors = [tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor for tensor in tensors]
    if pin:
        tensors = [tensor.pin_memory() for tensor in tensors]
    return Delivered(tensors[0], tensors[1], np.asarray(index, dtype=np.int64))


@dataclass(frozen=True)
class Tensors:
    """Collates for a DataLoader, whose workers hand tensors over through shared memory."""

    onehot: bool

    def __call__(self, items: Sequence[Item]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return pictures, masks and indices as :func:`stack` does, as tensors."""
        import torch

        image, mask, index = stack(items, onehot=self.onehot)
        return torch.from_numpy(image), torch.from_numpy(mask), torch.from_numpy(index)


def decode_npy(data: bytes, channels: int) -> Pixels:
    """Return the pixels of a square uint8 ``.npy`` member, a view behind its header."""
    length = int.from_bytes(data[8:10], "little") + 10
    pixels = np.frombuffer(data, np.uint8, offset=length)
    side = round((len(pixels) / channels) ** 0.5)
    return pixels.reshape((side, side, 3) if channels == 3 else (side, side))


def _decode_image(data: bytes, height: int, width: int) -> Pixels:
    import simplejpeg

    if data[:2] == b"\xff\xd8":
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width)
        return pixels
    import cv2  # a GIF or PNG under the name of a JPEG, which the source itself may hold

    found: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return np.asarray(found[:, :, ::-1])


def _resize_image(pixels: Pixels, size: int) -> Pixels:
    import cv2

    if pixels.shape[:2] == (size, size):
        return pixels
    shrinks = pixels.shape[0] >= size and pixels.shape[1] >= size
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (size, size), interpolation=how))


def _resize_trimap(classes: Pixels, size: int) -> Pixels:
    import cv2

    if classes.shape == (size, size):
        return classes
    return np.asarray(cv2.resize(classes, (size, size), interpolation=cv2.INTER_NEAREST_EXACT))
