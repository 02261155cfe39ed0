"""Reads single samples of a shard set as arrays, for drawings and for scores at the original resolution.

Independent of the training pipeline, which is faster. A sample that cannot be decoded raises ``SampleError``.
"""

import contextlib
import io
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

from shards import SampleError, SplitReader
from shards.audit.transcode import DAMAGE, open_stored


def read_image(split: SplitReader, index: int) -> npt.NDArray[np.uint8]:
    """Return a sample's image as stored: uint8 (H, W, 3), RGB."""
    return _decode(split, index, "image", "RGB")


def read_rgb(split: SplitReader, index: int) -> Image.Image:
    """Return the same as an RGB image, without a further copy of its pixels."""
    if split.manifest.storage == "raw":
        return Image.fromarray(read_image(split, index))
    with _decoding(split, index, "image") as data:
        image = open_stored(data)
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")


def read_mask(split: SplitReader, index: int) -> npt.NDArray[np.uint8]:
    """Return a sample's mask as stored: class indices 0..N-1 and 255 for ignored pixels, uint8 (H, W)."""
    return _decode(split, index, "mask", "L")


def _decode(split: SplitReader, index: int, role: str, mode: str) -> npt.NDArray[np.uint8]:
    with _decoding(split, index, role) as data:
        if split.manifest.storage == "raw":
            return np.asarray(np.load(io.BytesIO(data), allow_pickle=False), dtype=np.uint8)
        image = open_stored(data)
        return np.asarray(image if image.mode == mode else image.convert(mode))


@contextlib.contextmanager
def _decoding(split: SplitReader, index: int, role: str) -> Iterator[bytes]:
    """Provide a member's bytes; an error of decoding them in the block becomes a ``SampleError``."""
    data = split.read(index, role)
    try:
        yield data
    except DAMAGE as error:
        raise SampleError(f"{split.place(index, role)}: cannot be decoded ({error})") from None
