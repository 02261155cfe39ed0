"""Samples of a set as pictures and trimaps, one at a time: for evaluation at own size and for drawings.

The training pipeline has its own, faster way; this one is for a few samples, and independent of it.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from shards import SampleError, SplitReader

Pixels = npt.NDArray[np.uint8]


def read_picture(split: SplitReader, index: int) -> Pixels:
    """Return a sample's picture as stored: uint8 (H, W, 3), red-green-blue.

    Raises:
        SampleError: it cannot be decoded.
    """
    return _decode(split, index, "image", "RGB")


def read_trimap(split: SplitReader, index: int) -> Pixels:
    """Return a sample's trimap as class indices 0..2: uint8 (H, W).

    Raises:
        SampleError: it cannot be decoded.
    """
    return _decode(split, index, "trimap", "L") - np.uint8(1)


def _decode(split: SplitReader, index: int, role: str, mode: str) -> Pixels:
    data = io.BytesIO(split.read(index, role))
    try:
        if split.manifest.storage == "raw":
            return np.asarray(np.load(data, allow_pickle=False), dtype=np.uint8)
        with Image.open(data) as picture:
            return np.asarray(picture.convert(mode))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise SampleError(f"{split.place(index, role)}: cannot be decoded ({error})") from None
