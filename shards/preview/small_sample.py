"""Decoding a sample of any storage for the eye: image and mask, made as small as they are shown."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from shards.audit.transcode import DAMAGE, open_stored
from shards.errors import SampleError
from shards.format.dataset import SplitReader
from shards.format.geometry import Size, nearest_places
from shards.format.labels import IGNORE
from shards.format.npy import npy_values
from shards.format.overlays import Pixels


@dataclass(frozen=True)
class SmallSample:
    """A sample as it is shown.

    Attributes:
        image: uint8 (h, w, 3).
        indices: class indices 0..N-1 and IGNORE, uint8 (h, w); nearest pixels of the stored mask.
        counts: pixels of each index in the stored mask, int64 (256,).
    """

    image: Pixels
    indices: Pixels
    counts: npt.NDArray[np.int64]


def small_sample(reader: SplitReader, index: int, box: Size, *, enlarge: bool) -> SmallSample:
    """Read a sample and bring it into a box (height, width), keeping its aspect ratio; smaller ones if ``enlarge``.

    Raises ``SampleError`` if it is damaged, or its mask holds an index that is no class.
    """
    indices = _mask(reader, index)
    height, width = indices.shape
    scale = min(box[0] / height, box[1] / width)
    scale = scale if enlarge else min(scale, 1.0)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    image = _image(reader, index, (height, width), size)
    rows, columns = nearest_places(height, size[0]), nearest_places(width, size[1])
    counts = np.bincount(indices.reshape(-1), minlength=256)
    unknown = np.flatnonzero(counts[len(reader.manifest.labels) : IGNORE])
    if len(unknown):
        number = len(reader.manifest.labels) + int(unknown[0])
        raise SampleError(f"{reader.place(index, 'mask')}: index {number} is no class of the set; build the set again")
    return SmallSample(image=image, indices=indices[np.ix_(rows, columns)], counts=counts)


def _image(reader: SplitReader, index: int, stored: Size, size: Size) -> Pixels:
    data = reader.read(index, "image")
    try:
        if reader.manifest.storage == "raw":
            image = Image.fromarray(npy_values(data, (*stored, 3)))
        else:
            image = open_stored(data)
            if (image.height, image.width) != stored:
                sizes = f"{image.height} x {image.width} pixels, the mask {stored[0]} x {stored[1]}"
                raise ValueError(f"the image has {sizes} (height x width)")
            image.draft("RGB", size[::-1])  # decodes a large JPEG at an eighth, a quarter or half of its size
            image = image.convert("RGB")
        return np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC, reducing_gap=3.0))
    except DAMAGE as error:
        raise SampleError(f"{reader.place(index, 'image')}: cannot be decoded ({error})") from None


def _mask(reader: SplitReader, index: int) -> Pixels:
    data = reader.read(index, "mask")
    try:
        if reader.manifest.storage == "raw":
            return npy_values(data, reader.manifest.size or (0, 0))
        mask = open_stored(data)
        if mask.mode != "L":
            raise ValueError(f"mode {mask.mode}, where L is expected")
        return np.asarray(mask)
    except DAMAGE as error:
        raise SampleError(f"{reader.place(index, 'mask')}: cannot be decoded ({error})") from None
