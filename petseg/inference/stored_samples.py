"""Reads single samples of a shard set as arrays, for drawings and for scores at the original resolution.

Independent of the training pipeline, which is faster. A sample that cannot be decoded raises ``SampleError``.
"""

import contextlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

from shards import SampleError, SplitReader
from shards.audit.transcode import DAMAGE, open_stored
from shards.format.geometry import Size
from shards.format.labels import IGNORE
from shards.format.npy import npy_values


def read_image(split: SplitReader, index: int) -> npt.NDArray[np.uint8]:
    """Return a sample's image as stored: uint8 (H, W, 3), RGB."""
    return _decode(split, index, "image", "RGB")


def read_rgb(split: SplitReader, index: int) -> Image.Image:
    """Return the same as an RGB image, without a further copy of its pixels."""
    if split.manifest.storage == "raw":
        return Image.fromarray(read_image(split, index))
    with _decoding(split, index, "image") as data:
        image = _opened(split, index, data)
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")


def read_mask(split: SplitReader, index: int) -> npt.NDArray[np.uint8]:
    """Return a sample's mask as stored: class indices 0..N-1 and 255 for ignored pixels, uint8 (H, W)."""
    mask = _decode(split, index, "mask", "L")
    classes = len(split.manifest.labels)
    unknown = np.flatnonzero(np.bincount(mask.reshape(-1), minlength=IGNORE)[classes:IGNORE])
    if len(unknown):
        value = classes + int(unknown[0])
        raise SampleError(f"{split.place(index, 'mask')}: index {value} is no class of the set; build the set again")
    return mask


def _decode(split: SplitReader, index: int, role: str, mode: str) -> npt.NDArray[np.uint8]:
    with _decoding(split, index, role) as data:
        if split.manifest.storage == "raw":
            return npy_values(data, _stored_size(split, index) + ((3,) if mode == "RGB" else ()))
        image = _opened(split, index, data)
        if mode == "L" and image.mode != mode:  # converting a palette would change the indices
            raise ValueError(f"mode {image.mode}, where L is expected")
        return np.asarray(image if image.mode == mode else image.convert(mode))


def _stored_size(split: SplitReader, index: int) -> Size:
    row = split.rows([index])[0]
    return split.manifest.size or (int(row["height"]), int(row["width"]))


def _opened(split: SplitReader, index: int, data: bytes) -> Image.Image:
    """Open an image or a mask; ``ValueError`` unless it has the size that the table says."""
    image, (height, width) = open_stored(data), _stored_size(split, index)
    if (image.height, image.width) != (height, width):
        found = f"{image.height} x {image.width} pixels"
        raise ValueError(f"{found}, the table says {height} x {width} (height x width)")
    return image


@contextlib.contextmanager
def _decoding(split: SplitReader, index: int, role: str) -> Iterator[bytes]:
    """Provide a member's bytes; an error of decoding them in the block becomes a ``SampleError``."""
    data = split.read(index, role)
    try:
        yield data
    except DAMAGE as error:
        raise SampleError(f"{split.place(index, role)}: cannot be decoded ({error})") from None
