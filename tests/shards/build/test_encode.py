"""What is stored in ``jpeg`` and ``raw``: images antialiased, masks nearest, one length in ``raw``."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from shard_sources import draw_image, draw_mask, encoded

from shards.audit.image_mask_pair import audit_pair
from shards.audit.mask import nearest
from shards.build.encode import encode, npy
from shards.format.dataset import ShardSet
from shards.format.npy import npy_header

JPEG, PNG = encoded(draw_image(1), "JPEG", quality=90), encoded(draw_mask(1), "PNG")


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 50))
def test_nearest_takes_the_pixel_under_the_centre(height: int, width: int, size: int) -> None:
    values = np.arange(height * width, dtype=np.int64).reshape(height, width)
    found = nearest(values, size)  # type: ignore[arg-type]
    for i in {0, size // 2, size - 1}:
        for j in {0, size // 3, size - 1}:
            # exact fractions: floor((i + 1/2) * n / size)
            assert found[i, j] == values[(2 * i + 1) * height // (2 * size), (2 * j + 1) * width // (2 * size)]


@pytest.mark.parametrize("storage", ["jpeg", "raw"])
@pytest.mark.parametrize("size", [1, 7, 24, 44, 100])
def test_stored_pixels(storage: str, size: int) -> None:
    pair = audit_pair(JPEG, PNG, storage=storage)  # type: ignore[arg-type]
    stored = encode(pair, storage=storage, size=size, quality=95)  # type: ignore[arg-type]
    exact = triangle(simplejpeg.decode_jpeg(JPEG), size)
    if storage == "raw":
        image, values = np.load(io.BytesIO(stored.image)), np.load(io.BytesIO(stored.mask))
        assert np.abs(image.astype(float) - exact).max() <= 1.01  # rounding, twice
    else:
        image, values = simplejpeg.decode_jpeg(stored.image), np.asarray(Image.open(io.BytesIO(stored.mask)))
        # chroma at half resolution costs a lot on this small image of saturated colors; luminance must be right
        luminance = [0.299, 0.587, 0.114]
        assert np.abs((image.astype(float) - exact) @ luminance).mean() < 4
    assert image.shape == (size, size, 3)
    assert image.dtype == values.dtype == np.uint8
    assert np.array_equal(values, nearest(draw_mask(1), size))
    assert stored.class_pixels == tuple(int((values == value).sum()) for value in (1, 2, 3))


def triangle(pixels: np.ndarray, size: int) -> np.ndarray:
    """An independent resize: a triangle filter as wide as the scale (at least one pixel), by matrix products."""
    rows, columns = (weights(length, size) for length in pixels.shape[:2])
    return np.einsum("ih,hwc,jw->ijc", rows, pixels.astype(np.float64), columns)


def weights(length: int, size: int) -> np.ndarray:
    scale = max(length / size, 1.0)
    centres = (np.arange(size) + 0.5) * length / size
    distance = np.abs(np.arange(length)[None] + 0.5 - centres[:, None]) / scale
    kernel = np.clip(1 - distance, 0, None)
    return kernel / kernel.sum(axis=1, keepdims=True)


def test_quality_is_used() -> None:
    pair = audit_pair(JPEG, PNG, storage="jpeg")
    sizes = [len(encode(pair, storage="jpeg", size=64, quality=quality).image) for quality in (10, 50, 90)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_raw_samples_take_the_same_number_of_bytes(tiny_sets: dict[str, Path]) -> None:
    opened = ShardSet.open(tiny_sets["raw"])
    layout = opened.manifest.raw
    assert layout is not None
    for name, split in opened.manifest.splits.items():
        rows = opened.split(name).table
        for role in ("image", "mask", "meta"):
            assert len(np.unique(rows[f"{role}_length"])) == 1
        for shard in split.shards:
            assert shard.bytes == shard.samples * layout.stride + 1024


def test_only_raw_has_a_layout_and_only_jpeg_a_quality(tiny_sets: dict[str, Path]) -> None:
    found = {}
    for storage, folder in tiny_sets.items():
        manifest = ShardSet.open(folder).manifest
        found[storage] = (manifest.raw is not None, manifest.options.quality, manifest.size, manifest.largest)
    assert found == {
        "source": (False, None, None, (60, 44)),
        "jpeg": (False, 90, 24, (24, 24)),
        "raw": (True, None, 24, (24, 24)),
    }


@pytest.mark.parametrize("shape", [(1, 1), (128, 128, 3), (4096, 4096, 3)])
def test_npy_is_numpys(shape: tuple[int, ...]) -> None:
    values = np.zeros(shape, np.uint8)
    buffer = io.BytesIO()
    np.save(buffer, values)
    assert npy(values) == buffer.getvalue()
    assert len(npy_header(shape)) == 128


def test_a_pair_audited_for_another_storage_is_refused() -> None:
    for_files = audit_pair(JPEG, PNG, storage="source")
    for_pixels = audit_pair(encoded(draw_image(1), "PNG"), PNG, storage="raw")
    with pytest.raises(ValueError, match="another storage"):
        encode(for_files, storage="raw", size=8, quality=None)
    with pytest.raises(ValueError, match="another storage"):
        encode(for_pixels, storage="source", size=None, quality=None)
