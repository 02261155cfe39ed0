"""The structure of JPEG and PNG files: orientation, kinds that keep their bytes, strict decoding of masks."""

from __future__ import annotations

import io
import math
import struct

import numpy as np
import pytest
from odd_files import audited, with_size
from PIL import Image, ImageOps
from shard_sources import draw_image, encoded

from shards.audit import jpeg_headers as jpeg
from shards.audit import png_chunks as png
from shards.audit import png_data
from shards.audit.findings import MAX_PIXELS, RejectedError
from shards.audit.orientation import apply_orientation, undo_orientation

IMAGE = draw_image(1)
JPEG = encoded(IMAGE, "JPEG", quality=90)


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"optimize": True}])
def test_ordinary_jpegs_keep_their_bytes(options: dict[str, object]) -> None:
    data = encoded(IMAGE, "JPEG", **options)
    assert audited(data).image.file == data


def test_grey_jpegs_keep_their_bytes_and_are_rgb_as_pixels() -> None:
    data = encoded(IMAGE[..., 0], "JPEG")
    assert audited(data).image.file == data
    pixels = audited(data, pixels=True).image.pixels
    assert pixels is not None
    assert pixels.shape == IMAGE.shape


def progressive(scans: int, *, comment: bytes = b"") -> bytes:
    """A grey JPEG of 8 x 8 pixels with so many scans, none of which is damage to libjpeg; 883 at most."""

    def segment(marker: int, body: bytes) -> bytes:
        return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body

    one_code = bytes([1] + [0] * 16)  # of a single bit, which means 0: no difference, or nothing more in the block
    head = segment(0xDB, bytes([0] + [1] * 64)) + segment(0xC2, struct.pack(">BHHB", 8, 8, 8, 1) + bytes([1, 0x11, 0]))
    tables = segment(0xC4, b"\x00" + one_code) + segment(0xC4, b"\x10" + one_code)
    bits = [13, *(low + 1 << 4 | low for low in range(12, -1, -1))]  # one more of each coefficient in each scan
    places = [(0, 13), *((k, each) for k in range(1, 64) for each in bits)]
    parts = [segment(0xDA, bytes([1, 1, 0, k, k, each])) + b"\x7f" for k, each in places[:scans]]
    return b"\xff\xd8" + segment(0xFE, comment) + head + tables + b"".join(parts) + b"\xff\xd9"


def test_a_jpeg_of_more_scans_than_encoders_write_is_rejected() -> None:
    """Each is a few bytes, and takes as long as the image is large: 0.8 MB took a minute."""
    mask = encoded(np.ones((8, 8), np.uint8), "PNG")
    scan = b"\xff\xda"
    for data in (progressive(100), progressive(100, comment=scan * 200), progressive(3) + scan * 200):
        assert audited(data, mask).mask.size == (8, 8)
    for data in (progressive(101), progressive(883), progressive(101).replace(scan, b"\xff" + scan)):
        for pixels in (False, True):
            with pytest.raises(RejectedError, match="more than 100 scans"):
                audited(data, mask, pixels=pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_as_pillow_does(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.open(io.BytesIO(encoded(IMAGE, "PNG", exif=exif)))
    expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(apply_orientation(IMAGE, orientation), expected)
    assert np.array_equal(undo_orientation(expected, orientation), IMAGE)


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
        assert np.array_equal(png_data.decode_plain(png.read_chunks(data)), mask)


@pytest.mark.parametrize("size", [(1, 1), (3, 70_000), (70_000, 3), (700, 500)])
@pytest.mark.parametrize("kind", ["noise", "smooth", "flat"])
def test_images_with_every_filter_and_back(size: tuple[int, int], kind: str) -> None:
    """Decoded some rows at a time, each block needs the row above it; the project's own PNGs are read by Pillow."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    ramps = np.add.outer(np.arange(size[0]) * 3, np.arange(size[1]) * 2)[..., None] + np.array([0, 50, 90])
    pixels = {"noise": noise, "smooth": (ramps // 7).astype(np.uint8), "flat": np.full_like(noise, 9)}[kind]
    for level in (0, 6):
        data = encoded(pixels, "PNG", compress_level=level)
        png_data.check_data(png.read_chunks(data))
        assert np.array_equal(png_data.decode_plain(png.read_chunks(data)), pixels)
    written = png_data.encode_rgb(pixels)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(written))), pixels)
    assert np.array_equal(png_data.decode_plain(png.read_chunks(written)), pixels)
    turned = apply_orientation(pixels, 6)  # not contiguous
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png_data.encode_rgb(turned)))), turned)


@pytest.mark.parametrize("pieces", [1, 1000])
def test_image_data_in_many_chunks(pieces: int) -> None:
    data = encoded(IMAGE, "PNG")
    (body,) = png.read_chunks(data).image_data
    step = max(1, len(body) // pieces)
    chunks = [png.write_chunk(b"IDAT", body[at : at + step]) for at in range(0, len(body), step)]
    split = data[:33] + b"".join(chunks) + png.write_chunk(b"IEND")
    assert np.array_equal(png_data.decode_plain(png.read_chunks(split)), IMAGE)
    assert audited(split).image.file == split
    apart = data[:33] + chunks[0] + png.write_chunk(b"tEXt", b"a\0b") + b"".join(chunks[1:]) + png.write_chunk(b"IEND")
    if pieces > 1:
        with pytest.raises(png.PngError, match="unexpected place"):
            png.read_chunks(apart)


@pytest.mark.parametrize(
    ("mode", "options", "bytes_a_pixel"),
    [
        ("RGB", {}, 3),
        ("RGB", {"progressive": True, "subsampling": 0}, 9),
        ("RGB", {"progressive": True, "subsampling": 2}, 6),
        ("L", {"progressive": True}, 5),
        ("CMYK", {}, 4),
        ("CMYK", {"progressive": True, "subsampling": 0}, 12),
    ],
)
def test_the_memory_of_a_jpeg_of_several_scans_is_bounded(mode: str, options: dict, bytes_a_pixel: int) -> None:
    """As that of all images is: by what the largest take of other kinds, 8 bytes a pixel."""
    Image.fromarray(IMAGE).convert(mode).save(file := io.BytesIO(), "JPEG", **options)
    data = file.getvalue()
    header = jpeg.read_header(data)
    assert header.memory == bytes_a_pixel * header.width * header.height
    side = math.isqrt(2**31 // bytes_a_pixel)
    assert jpeg.read_header(with_size(data, side, side)).memory <= 2**31
    if bytes_a_pixel > 8:  # the others have too many pixels
        with pytest.raises(RejectedError, match=r"several scans, which takes 2,147,.* baseline") as caught:
            audited(with_size(data, side + 1, side + 1), max_pixels=MAX_PIXELS)
        assert caught.value.reason == "image-too-large"


def test_a_baseline_jpeg_of_several_scans_keeps_its_coefficients() -> None:
    data = encoded(IMAGE, "JPEG")
    first = data.index(b"\xff\xda")
    assert data[first + 4] == 3
    header = jpeg.read_header(data[: first + 4] + b"\1" + data[first + 5 :])
    assert header.memory > 3 * header.width * header.height
