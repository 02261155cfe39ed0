"""What is stored of an audited pair, in each of the three storages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from shards.audit.image import encode_jpeg
from shards.audit.mask import class_pixels, encode_png, nearest
from shards.audit.pair import AuditedPair
from shards.audit.transcode import Pixels
from shards.format.layout import Storage
from shards.format.npy import npy_header

DEFAULT_QUALITY = 90
DEFAULT_SIZE = 128


@dataclass(frozen=True)
class Stored:
    """The bytes of a sample's picture and trimap, and the stored trimap's pixels of each class."""

    image: bytes
    trimap: bytes
    class_pixels: tuple[int, int, int]
    width: int
    height: int


def encode(pair: AuditedPair, *, storage: Storage, size: int | None, quality: int | None) -> Stored:
    """Turn an audited pair into the members that are stored.

    Pictures are squashed to a square with a triangle filter as wide as a source pixel's share (Pillow's BILINEAR
    with its support scaled: antialiased), the same filter as the pipeline's. Trimaps take the nearest source pixel:
    it invents no class, keeps every class's share of the area, keeps the thin border (which a majority vote would
    eat), and makes the stored trimap equal to the one that the pipeline computes from ``source`` storage.

    Args:
        pair: audited for this storage.
        storage: ``source`` keeps the bytes; ``jpeg`` and ``raw`` need ``size``.
        size: side of the stored square, pixels.
        quality: of the JPEG in ``jpeg`` storage, 1..100 (chroma at half resolution).
    """
    if storage == "source" or size is None:
        jpeg = pair.picture.jpeg
        if jpeg is None:
            raise ValueError("the pair was audited for another storage")
        return Stored(jpeg, pair.trimap.png, pair.trimap.class_pixels, pair.picture.width, pair.picture.height)
    pixels = resized(pair.picture.pixels, size)
    values = nearest(pair.trimap.values, size)
    classes = class_pixels(values)
    if storage == "jpeg":
        image = encode_jpeg(pixels, quality=quality or DEFAULT_QUALITY, subsampling="420")
        trimap = encode_png(values)
    else:
        image, trimap = npy(pixels), npy(values)
    return Stored(image, trimap, classes, size, size)


def resized(pixels: Pixels | None, size: int) -> Pixels:
    """Squash (height, width, 3) to (size, size, 3) with an antialiasing triangle filter."""
    if pixels is None:
        raise ValueError("the pair was audited for another storage")
    height, width = pixels.shape[:2]
    image = Image.new("RGB", (width, height), None)  # not filled first, as fromarray does
    image.frombytes(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def npy(pixels: Pixels) -> bytes:
    """Return the bytes of a ``.npy`` file, version 1.0."""
    return npy_header(pixels.shape) + np.ascontiguousarray(pixels).tobytes()
