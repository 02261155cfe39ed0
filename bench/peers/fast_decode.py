"""Fast decoding that several peers share, so that what differs between them is the loader.

libjpeg-turbo decodes at a reduced scale (simplejpeg), OpenCV does the rest: what one writes to tune a DataLoader.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from bench.peers.job import Job
from bench.peers.peer import EPOCHS_DRAWN
from pipeline.cpu.pixel_ops import colour_transforms
from pipeline.order.augmentation import Augmentation, draw_parameters
from shards.format.dataset import ShardSet
from shards.format.geometry import PAD_COLOUR, Size, nearest_places
from shards.format.labels import IGNORE

if TYPE_CHECKING:
    import torch

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class DecodedSample:
    """One sample: image (H, W, 3), mask (H, W) with class indices and 255, index in the split."""

    image: Pixels
    mask: Pixels
    index: int


class ParameterTable:
    """What is done to every sample in each of ``epochs`` epochs: petseg's parameters, drawn beforehand.

    ``boxes`` are int32 (epochs, samples, 4): top, left, height, width in pixels of the stored image; ``places``
    likewise in the output, see :func:`shards.format.geometry.placements`; ``flip`` is bool (epochs, samples);
    ``matrices`` are float32 (epochs, samples, 3, 4): colour, ``m[:, :3] @ rgb + m[:, 3]``, None without augmentation.
    """

    def __init__(self, job: Job) -> None:
        self.epochs = EPOCHS_DRAWN if job.augment else 1
        indices = np.arange(job.samples)
        rows = ShardSet.open(job.shards).split(job.split).rows(indices)
        sides = (rows["height"], rows["width"]) if job.stored_size is None else job.stored_size
        heights, widths = (np.broadcast_to(side, job.samples).astype(np.int64) for side in sides)
        augmentation = Augmentation() if job.augment else None
        common: dict[str, Any] = {"seed": job.seed, "indices": indices, "heights": heights, "widths": widths}
        drawn = [draw_parameters(augmentation, epoch=epoch, size=job.size, fit=job.fit, **common)
                 for epoch in range(self.epochs)]  # fmt: skip
        self.boxes = np.stack([one.boxes for one in drawn])
        self.places = np.stack([one.places for one in drawn])
        self.flip = np.stack([one.flip for one in drawn])
        self.matrices: npt.NDArray[np.float32] | None = None
        if job.augment:
            self.matrices = np.stack([colour_transforms(one) for one in drawn])


class FastDecoder:
    """Turns the stored bytes of a sample into a :class:`DecodedSample`; thread-safe."""

    def __init__(self, job: Job) -> None:
        self._size, self._stored = job.size, job.stored_size if job.storage == "raw" else None
        self._table = ParameterTable(job)

    def __call__(self, image: bytes, mask: bytes, index: int, epoch: int = 0) -> DecodedSample:
        """Decode image and mask as the job's storage holds them, crop, resize, flip, colour and place them."""
        table, which = self._table, (epoch % self._table.epochs, index)
        top, left, height, width = table.boxes[which].tolist()
        row, column, *inner = table.places[which].tolist()
        pixels, indices = self._decode(image, mask, box=(height, width), inner=(inner[0], inner[1]))
        scale_y, scale_x = pixels.shape[0] / indices.shape[0], pixels.shape[1] / indices.shape[1]
        pixels = pixels[_scaled(top, height, scale_y), _scaled(left, width, scale_x)]
        shrinks = pixels.shape[0] >= inner[0] and pixels.shape[1] >= inner[1]
        pixels = _resize(pixels, inner, cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        indices = resize_mask(indices[top : top + height, left : left + width], (inner[0], inner[1]))
        if table.flip[which]:
            pixels, indices = np.asarray(cv2.flip(pixels, 1)), np.asarray(cv2.flip(indices, 1))
        if table.matrices is not None:
            pixels = np.asarray(cv2.transform(pixels, table.matrices[which]), np.uint8)
        if tuple(inner) != self._size:
            place, small = (slice(row, row + inner[0]), slice(column, column + inner[1])), (pixels, indices)
            pixels, indices = np.full((*self._size, 3), PAD_COLOUR, np.uint8), np.full(self._size, IGNORE, np.uint8)
            pixels[place], indices[place] = small
        return DecodedSample(pixels, indices, index)

    def _decode(self, image: bytes, mask: bytes, *, box: Size, inner: Size) -> tuple[Pixels, Pixels]:
        """Return the image, at a scale at which the box is not below the size that it gets, and the mask."""
        if self._stored is not None:
            return _read_npy(image, (*self._stored, 3)), _read_npy(mask, self._stored)
        indices: Any = cv2.imdecode(np.frombuffer(mask, np.uint8), cv2.IMREAD_GRAYSCALE)
        height, width = (min(-(-inner[i] * indices.shape[i] // box[i]), indices.shape[i]) for i in (0, 1))
        return decode_image(image, (height, width)), indices


class DecodedFiles:
    """A map-style dataset over image and mask files; items are numbered as :class:`EpochSampler` numbers them."""

    def __init__(self, job: Job) -> None:
        self._samples = job.read_files().members
        self._decode = FastDecoder(job)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, number: int) -> DecodedSample:
        epoch, index = divmod(number, len(self._samples))
        image, mask = self._samples[index]
        return self._decode(Path(image).read_bytes(), Path(mask).read_bytes(), index, epoch)


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


class Collate:
    """Makes a batch of samples: images (B, H, W, 3), masks, one-hot (B, H, W, N) or class indices (B, H, W), and
    numbers, int64 (B,).
    """

    def __init__(self, job: Job) -> None:
        self._classes = np.arange(job.classes, dtype=np.uint8) if job.onehot else None

    def __call__(self, samples: Sequence[DecodedSample]) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
        import torch

        image, mask = np.stack([sample.image for sample in samples]), np.stack([sample.mask for sample in samples])
        if self._classes is not None:
            mask = (mask[..., None] == self._classes).view(np.uint8)
        index = torch.tensor([sample.index for sample in samples])
        return torch.from_numpy(image), torch.from_numpy(mask), index


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
