"""The structure of JPEG and PNG files: orientation, kinds that keep their bytes, strict decoding of masks."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps
from shard_sources import draw_image, draw_mask, encoded

from shards.audit import jpeg_headers as jpeg
from shards.audit import png_chunks as png
from shards.audit.image import apply_orientation
from shards.audit.image_mask_pair import audit_pair

IMAGE = draw_image(1)
JPEG, PNG = encoded(IMAGE, "JPEG", quality=90), encoded(draw_mask(1), "PNG")


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"optimize": True}])
def test_ordinary_jpegs_keep_their_bytes(options: dict[str, object]) -> None:
    data = encoded(IMAGE, "JPEG", **options)
    assert audit_pair(data, PNG, storage="source").image.jpeg == data


def test_grey_jpegs_keep_their_bytes_and_are_rgb_as_pixels() -> None:
    data = encoded(IMAGE[..., 0], "JPEG")
    assert audit_pair(data, PNG, storage="source").image.jpeg == data
    pixels = audit_pair(data, PNG, storage="raw").image.pixels
    assert pixels is not None
    assert pixels.shape == IMAGE.shape


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_as_pillow_does(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.open(io.BytesIO(encoded(IMAGE, "PNG", exif=exif)))
    expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(apply_orientation(IMAGE, orientation), expected)


def test_orientation_is_removed_without_touching_anything_else() -> None:
    for order in ("<", ">"):
        tiff = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, 1)
        tiff += struct.pack(order + "HHIHH", 0x0112, 3, 1, 6, 0) + bytes(4)
        body = b"Exif\0\0" + tiff
        data = JPEG[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + JPEG[2:]
        head = jpeg.read_header(data)
        assert head.orientation == 6
        plain = jpeg.without_orientation(data, head)
        assert jpeg.read_header(plain).orientation == 1
        assert len(plain) == len(data)
        assert sum(a != b for a, b in zip(plain, data, strict=True)) == 1


@pytest.mark.parametrize("size", [(1, 1), (3, 70_000), (700, 500)])
def test_large_masks_with_every_filter(size: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).integers(1, 4, size, dtype=np.uint8)
    for level in (0, 9):
        data = encoded(mask, "PNG", compress_level=level)
        assert np.array_equal(png.decode_plain(png.read_chunks(data)), mask)
