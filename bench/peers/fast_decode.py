"""Fast decoding that several peers share, so that what differs between them is the loader.

libjpeg-turbo decodes at a reduced scale (simplejpeg), OpenCV does the rest: what one writes to tune a DataLoader.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from bench.peers.peer import Job
from pipeline.cpu.pixel_ops import colour_transforms
from pipeline.order.augmentation import Augmentation, Parameters, draw_parameters
from shards.format.dataset import ShardSet
from shards.format.geometry import PAD_COLOUR, Size, nearest_places
from shards.format.labels import IGNORE

if TYPE_CHECKING:
    import torch

Pixels = npt.NDArray[np.uint8]
Sample = tuple[Pixels, Pixels, int]  # image (H, W, 3), mask (H, W) with class indices and 255, index in the split


def draw_beforehand(job: Job) -> tuple[Parameters, npt.NDArray[np.float32] | None]:
    """Return petseg's parameters of every sample in epoch 0, which peers apply in each epoch, at no cost.

    With augmentation also its colour transforms, float32 (samples, 3, 4): ``m[:, :3] @ rgb + m[:, 3]``.
    """
    indices = np.arange(job.samples)
    rows = ShardSet.open(job.shards).split(job.split).rows(indices)
    sides = (rows["height"], rows["width"]) if job.stored_size is None else job.stored_size
    heights, widths = (np.broadcast_to(side, job.samples).astype(np.int64) for side in sides)
    drawn = draw_parameters(Augmentation() if job.augment else None, seed=job.seed, epoch=0, indices=indices,
                            heights=heights, widths=widths, size=job.size, fit=job.fit)  # fmt: skip
    return drawn, colour_transforms(drawn) if job.augment else None


class FastDecoder:
    """Turns the stored bytes of a sample into a :data:`Sample`; thread-safe."""

    def __init__(self, job: Job) -> None:
        self._size, self._stored = job.size, job.stored_size if job.storage == "raw" else None
        self._drawn, self._colours = draw_beforehand(job)

    def __call__(self, image: bytes, mask: bytes, index: int) -> Sample:
        """Decode image and mask as the job's storage holds them, crop, resize, flip, colour and place them."""
        top, left, height, width = self._drawn.boxes[index].tolist()
        row, column, *inner = self._drawn.places[index].tolist()
        pixels, indices = self._decode(image, mask, box=(height, width), inner=(inner[0], inner[1]))
        scale_y, scale_x = pixels.shape[0] / indices.shape[0], pixels.shape[1] / indices.shape[1]
        pixels = pixels[_scaled(top, height, scale_y), _scaled(left, width, scale_x)]
        shrinks = pixels.shape[0] >= inner[0] and pixels.shape[1] >= inner[1]
        pixels = _resize(pixels, inner, cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        indices = resize_mask(indices[top : top + height, left : left + width], (inner[0], inner[1]))
        if self._drawn.flip[index]:
            pixels, indices = np.asarray(cv2.flip(pixels, 1)), np.asarray(cv2.flip(indices, 1))
        if self._colours is not None:
            pixels = np.asarray(cv2.transform(pixels, self._colours[index]), np.uint8)
        if tuple(inner) != self._size:
            place, small = (slice(row, row + inner[0]), slice(column, column + inner[1])), (pixels, indices)
            pixels, indices = np.full((*self._size, 3), PAD_COLOUR, np.uint8), np.full(self._size, IGNORE, np.uint8)
            pixels[place], indices[place] = small
        return pixels, indices, index

    def _decode(self, image: bytes, mask: bytes, *, box: Size, inner: Size) -> tuple[Pixels, Pixels]:
        """Return the image, at a scale at which the box is not below the size that it gets, and the mask."""
        if self._stored is not None:
            return _read_npy(image, (*self._stored, 3)), _read_npy(mask, self._stored)
        indices: Any = cv2.imdecode(np.frombuffer(mask, np.uint8), cv2.IMREAD_GRAYSCALE)
        height, width = (min(-(-inner[i] * indices.shape[i] // box[i]), indices.shape[i]) for i in (0, 1))
        return decode_image(image, (height, width)), indices


class DecodedFiles:
    """A map-style dataset over image and mask files."""

    def __init__(self, job: Job) -> None:
        self._samples, self._decode = job.files.members, FastDecoder(job)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        image, mask = self._samples[index]
        return self._decode(Path(image).read_bytes(), Path(mask).read_bytes(), index)


def decoded_rows(dataset_class: Any, job: Job, **options: Any) -> Any:
    """Return a ``dataset_class(**options)`` that decodes the rows of a :class:`ConvertedPeer`."""
    decode = FastDecoder(job)

    class DecodedRows(dataset_class):  # type: ignore[misc]
        def __getitem__(self, at: Any) -> Sample:
            return decode(**super().__getitem__(at))

    return DecodedRows(**options)


class Collate:
    """Makes a batch of samples: images (B, H, W, 3), masks, one-hot (B, H, W, N) or class indices (B, H, W), and
    numbers, int64 (B,).
    """

    def __init__(self, job: Job) -> None:
        self._classes = np.arange(job.classes, dtype=np.uint8) if job.onehot else None

    def __call__(self, samples: Sequence[Sample]) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
        import torch

        images, masks, indices = zip(*samples, strict=True)
        mask = np.stack(masks)
        if self._classes is not None:
            mask = (mask[..., None] == self._classes).view(np.uint8)
        return torch.from_numpy(np.stack(images)), torch.from_numpy(mask), torch.tensor(indices)


def loader_options(job: Job) -> dict[str, Any]:
    """Return the arguments that the tuned peers on ``torch.utils.data.DataLoader`` have in common."""
    return {"batch_size": job.batch_size, "num_workers": job.workers, "persistent_workers": job.workers > 0,
            "pin_memory": job.device == "cuda", "collate_fn": Collate(job)}  # fmt: skip


def decode_image(data: bytes, least: Size = (0, 0)) -> Pixels:
    """Decode a JPEG, at the smallest of libjpeg's scales that is not below ``least`` (0: full scale), or a PNG."""
    if data[:2] == b"\xff\xd8":
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=least[0], min_width=least[1])
        return pixels
    kind = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), kind), np.uint8)


def resize_mask(mask: Pixels, size: Size) -> Pixels:
    """Resize (height, width, ...) to the nearest pixels, the same as petseg's.

    OpenCV and Pillow round some of them otherwise, unless both sides of the output are powers of two.
    """
    if are_powers_of_two(size):
        return _resize(mask, size, cv2.INTER_NEAREST_EXACT)
    rows, columns = (nearest_places(mask.shape[side], size[side]) for side in (0, 1))
    return np.asarray(mask[rows].take(columns, axis=1))


def are_powers_of_two(size: Size) -> bool:
    """Return whether both sides are powers of two."""
    return all(side & (side - 1) == 0 for side in size)


def _scaled(start: int, length: int, scale: float) -> slice:
    """Return the pixels of a crop in a scaled image, at least one."""
    first = round(start * scale)
    return slice(first, max(round((start + length) * scale), first + 1))


def _read_npy(data: bytes, shape: tuple[int, ...]) -> Pixels:
    """Return the pixels of a uint8 ``.npy`` member, as a view of the bytes after its header."""
    return np.frombuffer(data, np.uint8, offset=int.from_bytes(data[8:10], "little") + 10).reshape(shape)


def _resize(pixels: Pixels, size: Sequence[int], how: int) -> Pixels:
    height, width = size
    fits = pixels.shape[:2] == (height, width)
    return pixels if fits else np.asarray(cv2.resize(pixels, (width, height), interpolation=how))
