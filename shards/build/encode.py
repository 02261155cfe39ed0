"""What is stored of an audited pair, in each of the three storages."""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from shards.audit.image import encode_jpeg
from shards.audit.image_mask_pair import AuditedPair
from shards.audit.mask import Counts, nearest, value_counts
from shards.audit.orientation import Pixels
from shards.audit.png_data import encode_unfiltered
from shards.format.geometry import PAD_COLOUR, Fit, Size, fit_boxes, placements
from shards.format.labels import IGNORE
from shards.format.layout import ImageFormat, Storage
from shards.format.npy import npy_header

DEFAULT_QUALITY = 90
DEFAULT_SIZE = 128


@dataclass(frozen=True)
class EncodedSample:
    """The bytes of a sample's image and mask.

    ``counts`` are the stored mask's pixels of each index 0..255, int64 (256,); height and width are those stored.
    """

    image: bytes
    format: ImageFormat
    mask: bytes
    counts: Counts = field(compare=False)  # they follow from the mask
    height: int
    width: int


def encode(
    pair: AuditedPair, *, storage: Storage, size: Size | None, fit: Fit | None, quality: int | None
) -> EncodedSample:
    """Turn an audited pair into the members that are stored.

    Images are resized with a triangle filter as wide as a source pixel's share (Pillow's BILINEAR with its support
    scaled: antialiased), the same filter as the pipeline's. Masks take the nearest source pixel: it invents no class,
    keeps every class's share of the area, keeps thin classes (which a majority vote would remove), and makes the
    stored mask equal to the one that the pipeline computes from ``source`` storage.

    Args:
        pair: audited for this storage.
        storage: ``source`` keeps the image's bytes; ``jpeg`` and ``raw`` need ``size`` and ``fit``.
        size: (height, width) of what is stored, pixels.
        fit: how images of another aspect ratio are brought to it.
        quality: of the JPEG in ``jpeg`` storage, 1..100 (chroma at half resolution).
    """
    image, mask = pair.image, pair.mask
    if storage == "source" and image.file is not None:
        stored = encode_unfiltered(mask.indices)
        return EncodedSample(image.file, image.format, stored, mask.counts, image.height, image.width)
    if storage == "source" or size is None or fit is None or image.pixels is None:
        raise ValueError("the pair was audited for another storage")
    pixels, indices = resized(image.pixels, mask.indices, size=size, fit=fit)
    counts = value_counts(indices)
    if storage == "jpeg":
        data = encode_jpeg(pixels, quality=quality or DEFAULT_QUALITY, subsampling="420")
        return EncodedSample(data, "jpg", encode_unfiltered(indices), counts, *size)
    return EncodedSample(npy(pixels), "npy", npy(indices), counts, *size)


def resized(pixels: Pixels, indices: Pixels, *, size: Size, fit: Fit) -> tuple[Pixels, Pixels]:
    """Bring an image, uint8 (height, width, 3), and its mask, (height, width), to a size: cut, resize, letterbox."""
    height, width = indices.shape
    boxes = fit_boxes(np.array([height]), np.array([width]), size=size, fit=fit)
    top, left, box_height, box_width = boxes[0].tolist()
    box = slice(top, top + box_height), slice(left, left + box_width)
    row, column, placed_height, placed_width = placements(boxes, size=size, fit=fit)[0].tolist()
    image = Image.new("RGB", (box_width, box_height), None)  # not filled first, as fromarray does
    image.frombytes(np.ascontiguousarray(pixels[box]))
    inner = np.asarray(image.resize((placed_width, placed_height), Image.Resampling.BILINEAR))
    mask = nearest(indices[box], (placed_height, placed_width))
    if (placed_height, placed_width) == size:
        return inner, mask
    place = slice(row, row + placed_height), slice(column, column + placed_width)
    padded, padded_mask = np.full((*size, 3), PAD_COLOUR, dtype=np.uint8), np.full(size, IGNORE, dtype=np.uint8)
    padded[place], padded_mask[place] = inner, mask
    return padded, padded_mask


def npy(pixels: Pixels) -> bytes:
    """Return the bytes of a ``.npy`` file, version 1.0."""
    return npy_header(pixels.shape) + np.ascontiguousarray(pixels).tobytes()
