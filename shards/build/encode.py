"""What is stored of an audited pair, in each of the three storages."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from shards.audit.image import encode_jpeg
from shards.audit.image_mask_pair import AuditedPair
from shards.audit.mask import class_pixels, nearest
from shards.audit.png_chunks import encode_unfiltered
from shards.audit.transcode import Pixels
from shards.format.layout import Storage
from shards.format.npy import npy_header

DEFAULT_QUALITY = 90
DEFAULT_SIZE = 128


@dataclass(frozen=True)
class EncodedSample:
    """The bytes of a sample's image and mask; pixels of each class, width and height are those of what is stored."""

    image: bytes
    mask: bytes
    class_pixels: tuple[int, int, int]
    width: int
    height: int


def encode(pair: AuditedPair, *, storage: Storage, size: int | None, quality: int | None) -> EncodedSample:
    """Turn an audited pair into the members that are stored.

    Images are stretched to a square with a triangle filter as wide as a source pixel's share (Pillow's BILINEAR with
    its support scaled: antialiased), the same filter as the pipeline's. Masks take the nearest source pixel: it invents
    no class, keeps every class's share of the area, keeps the thin border (which a majority vote would remove), and
    makes the stored mask equal to the one that the pipeline computes from ``source`` storage.

    Args:
        pair: audited for this storage.
        storage: ``source`` keeps the bytes; ``jpeg`` and ``raw`` need ``size``.
        size: side of the stored square, pixels.
        quality: of the JPEG in ``jpeg`` storage, 1..100 (chroma at half resolution).
    """
    image, mask = pair.image, pair.mask
    if storage == "source" and image.jpeg is not None:
        return EncodedSample(image.jpeg, mask.png, class_pixels(mask.values), image.width, image.height)
    if storage == "source" or size is None or image.pixels is None:
        raise ValueError("the pair was audited for another storage")
    pixels, values = stretched(image.pixels, size), nearest(mask.values, size)
    if storage == "jpeg":
        data = encode_jpeg(pixels, quality=quality or DEFAULT_QUALITY, subsampling="420"), encode_unfiltered(values)
    else:
        data = npy(pixels), npy(values)
    return EncodedSample(*data, class_pixels(values), size, size)


def stretched(pixels: Pixels, size: int) -> Pixels:
    """Stretch (height, width, 3) to (size, size, 3) with an antialiasing triangle filter."""
    height, width = pixels.shape[:2]
    image = Image.new("RGB", (width, height), None)  # not filled first, as fromarray does
    image.frombytes(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def npy(pixels: Pixels) -> bytes:
    """Return the bytes of a ``.npy`` file, version 1.0."""
    return npy_header(pixels.shape) + np.ascontiguousarray(pixels).tobytes()
