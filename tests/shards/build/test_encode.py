"""What is stored of a pair: masks exactly as plain loops compute them, images as Pillow resizes them."""

from __future__ import annotations

import io
from fractions import Fraction
from math import floor
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shard_sources import draw_image, draw_mask, encoded

from shards.audit.image_mask_pair import AuditedPair, audit_pair
from shards.build.encode import EncodedSample, encode, npy, resized
from shards.format.builtin_labels import PETS
from shards.format.dataset import ShardSet
from shards.format.geometry import PAD_COLOUR, Fit, Size
from shards.format.labels import UNTINTED, LabelClass, Labels
from shards.format.npy import npy_header

JPEG, PNG = encoded(draw_image(1), "JPEG", quality=90), encoded(draw_mask(1), "PNG")
SIDES = st.integers(1, 24)
SIZES = st.tuples(SIDES, SIDES)
FITS = st.sampled_from(["stretch", "cover", "contain"])


def audited(*, pixels: bool = True) -> AuditedPair:
    return audit_pair(JPEG, PNG, labels=PETS, pixels=pixels)


def half_up(value: Fraction) -> int:
    return floor(value + Fraction(1, 2))


def box_of(height: int, width: int, size: Size, fit: Fit) -> tuple[int, int, int, int]:
    """(top, left, height, width) of what is shown of an image, in exact fractions: an independent computation."""
    out_height, out_width = size
    if fit != "cover":
        return 0, 0, height, width
    if Fraction(height, width) > Fraction(out_height, out_width):
        shown = min(max(half_up(Fraction(width * out_height, out_width)), 1), height)
        return (height - shown) // 2, 0, shown, width
    shown = min(max(half_up(Fraction(height * out_width, out_height)), 1), width)
    return 0, (width - shown) // 2, height, shown


def place_of(height: int, width: int, size: Size, fit: Fit) -> tuple[int, int, int, int]:
    """(top, left, height, width) of where a box of this size is put in the output."""
    out_height, out_width = size
    if fit != "contain":
        return 0, 0, out_height, out_width
    scale = min(Fraction(out_height, height), Fraction(out_width, width))
    placed_height, placed_width = max(half_up(height * scale), 1), max(half_up(width * scale), 1)
    return (out_height - placed_height) // 2, (out_width - placed_width) // 2, placed_height, placed_width


def expected_mask(indices: np.ndarray, size: Size, fit: Fit) -> np.ndarray:
    """Each output pixel takes the source pixel under its centre; what is outside the image is ignored."""
    top, left, height, width = box_of(*indices.shape, size, fit)
    row, column, placed_height, placed_width = place_of(height, width, size, fit)
    expected = np.full(size, 255, np.uint8)
    for i in range(placed_height):
        for j in range(placed_width):
            y = floor((i + Fraction(1, 2)) * height / placed_height)
            x = floor((j + Fraction(1, 2)) * width / placed_width)
            expected[row + i, column + j] = indices[top + y, left + x]
    return expected


def expected_image(pixels: np.ndarray, size: Size, fit: Fit) -> np.ndarray:
    top, left, height, width = box_of(*pixels.shape[:2], size, fit)
    row, column, placed_height, placed_width = place_of(height, width, size, fit)
    shown = Image.fromarray(np.ascontiguousarray(pixels[top : top + height, left : left + width]))
    shown = shown.resize((placed_width, placed_height), Image.Resampling.BILINEAR)
    expected = Image.new("RGB", size[::-1], PAD_COLOUR)
    expected.paste(shown, (column, row))
    return np.asarray(expected)


def stored_arrays(stored: EncodedSample) -> tuple[np.ndarray, np.ndarray]:
    if stored.format == "npy":
        return np.load(io.BytesIO(stored.image)), np.load(io.BytesIO(stored.mask))
    image, mask = (np.asarray(Image.open(io.BytesIO(file))) for file in (stored.image, stored.mask))
    return image, mask


@st.composite
def labelled_masks(draw: st.DrawFn) -> tuple[Labels, np.ndarray, np.ndarray]:
    """Labels of 1 to 255 classes with any values, a mask of such values, and the class indices, 255 where ignored."""
    count = draw(st.sampled_from([1, 2, 3, 21, 150, 254, 255]))
    values = draw(st.permutations(range(256)))
    ignored = values[count : count + draw(st.integers(0, 2))]
    classes = tuple(LabelClass(name=f"c{n}", color=UNTINTED, values=(values[n],)) for n in range(count))
    shape = draw(SIZES)
    used = draw(st.lists(st.sampled_from([*values[:count], *ignored]), min_size=1, max_size=6))
    mask = np.random.default_rng(draw(st.integers(0, 999))).choice(np.array(used, np.uint8), shape)
    index = {value: number for number, value in enumerate(values[:count])} | dict.fromkeys(ignored, 255)
    indices = np.array([[index[int(value)] for value in row] for row in mask], np.uint8)
    return Labels(classes=classes, ignore=tuple(ignored)), mask, indices


@settings(max_examples=150)
@given(labelled_masks(), SIZES, FITS, st.sampled_from(["source", "jpeg", "raw"]))
def test_masks_are_exact(case: tuple[Labels, np.ndarray, np.ndarray], size: Size, fit: Fit, storage: str) -> None:
    """Any number of classes, ignored pixels, odd sizes, H != W, single pixels: equal to plain loops over pixels."""
    labels, mask, indices = case
    image = encoded(draw_image(3, width=mask.shape[1], height=mask.shape[0]), "PNG")
    pair = audit_pair(image, encoded(mask, "PNG"), labels=labels, pixels=storage != "source")
    scaled = {} if storage == "source" else {"size": size, "fit": fit}
    given_ = {"size": None, "fit": None, "quality": None, **scaled}
    stored = encode(pair, storage=storage, **given_)  # type: ignore[arg-type]
    expected = indices if storage == "source" else expected_mask(indices, size, fit)
    _, found = stored_arrays(stored)
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected)
    assert np.array_equal(stored.counts, np.bincount(expected.reshape(-1), minlength=256))
    assert (stored.height, stored.width) == expected.shape


@given(SIZES, SIZES, FITS)
def test_images_are_as_pillow_resizes_them(shape: Size, size: Size, fit: Fit) -> None:
    pixels = draw_image(5, width=shape[1], height=shape[0])
    found, _ = resized(pixels, np.zeros(shape, np.uint8), size=size, fit=fit)
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected_image(pixels, size, fit))


def test_cover_and_contain_do_not_distort() -> None:
    """A square in the middle of a wide image stays a square."""
    mask = np.zeros((60, 200), np.uint8)
    mask[15:45, 85:115] = 1
    for fit, side in (("cover", 20), ("contain", 6)):
        _, found = resized(np.zeros((60, 200, 3), np.uint8), mask, size=(40, 40), fit=fit)  # type: ignore[arg-type]
        rows, columns = (np.flatnonzero((found == 1).any(axis=axis)) for axis in (1, 0))
        assert abs(len(rows) - side) <= 1
        assert abs(len(columns) - side) <= 1
        assert (found == 255).any() == (fit == "contain")


@pytest.mark.parametrize("storage", ["jpeg", "raw"])
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (24, 24), (44, 60), (100, 30)])
def test_stored_pixels(storage: str, size: Size) -> None:
    stored = encode(audited(), storage=storage, size=size, fit="stretch", quality=95)  # type: ignore[arg-type]
    exact = triangle(simplejpeg.decode_jpeg(JPEG), size)
    image, _ = stored_arrays(stored)
    if storage == "raw":
        assert np.abs(image.astype(float) - exact).max() <= 1.01  # rounding, twice
    else:
        # chroma at half resolution costs a lot on this small image of saturated colors; luminance must be right
        luminance = [0.299, 0.587, 0.114]
        assert np.abs((image.astype(float) - exact) @ luminance).mean() < 4
    assert image.shape == (*size, 3)


def triangle(pixels: np.ndarray, size: Size) -> np.ndarray:
    """An independent resize: a triangle filter as wide as the scale (at least one pixel), by matrix products."""
    rows, columns = (weights(*lengths) for lengths in zip(pixels.shape[:2], size, strict=True))
    return np.einsum("ih,hwc,jw->ijc", rows, pixels.astype(np.float64), columns)


def weights(length: int, size: int) -> np.ndarray:
    scale = max(length / size, 1.0)
    centres = (np.arange(size) + 0.5) * length / size
    distance = np.abs(np.arange(length)[None] + 0.5 - centres[:, None]) / scale
    kernel = np.clip(1 - distance, 0, None)
    return kernel / kernel.sum(axis=1, keepdims=True)


def test_quality_is_used() -> None:
    sizes = [
        len(encode(audited(), storage="jpeg", size=(64, 64), fit="stretch", quality=quality).image)
        for quality in (10, 50, 90)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_raw_samples_take_the_same_number_of_bytes(tiny_sets: dict[str, Path]) -> None:
    opened = ShardSet.open(tiny_sets["raw"])
    layout = opened.manifest.raw
    assert layout is not None
    for name in opened.manifest.splits:
        rows = opened.split(name).table[:]
        for role in ("image", "mask", "meta"):
            assert len(np.unique(rows[f"{role}_length"])) == 1
        for shard in opened.split(name).shards:
            assert shard.bytes == shard.samples * layout.stride + 1024


def test_only_raw_has_a_layout_and_only_jpeg_a_quality(tiny_sets: dict[str, Path]) -> None:
    found = {}
    for storage, folder in tiny_sets.items():
        manifest = ShardSet.open(folder).manifest
        found[storage] = (manifest.raw is not None, manifest.options.quality, manifest.size, manifest.largest)
    assert found == {
        "source": (False, None, None, (44, 60)),
        "jpeg": (False, 90, (24, 24), (24, 24)),
        "raw": (True, None, (24, 24), (24, 24)),
    }


@pytest.mark.parametrize("shape", [(1, 1), (128, 96, 3), (4096, 4096, 3)])
def test_npy_is_numpys(shape: tuple[int, ...]) -> None:
    values = np.zeros(shape, np.uint8)
    buffer = io.BytesIO()
    np.save(buffer, values)
    assert npy(values) == buffer.getvalue()
    assert len(npy_header(shape)) == 128


def test_a_pair_audited_for_another_storage_is_refused() -> None:
    with pytest.raises(ValueError, match="another storage"):
        encode(audited(pixels=False), storage="raw", size=(8, 8), fit="stretch", quality=None)
    with pytest.raises(ValueError, match="another storage"):
        encode(audited(), storage="source", size=None, fit=None, quality=None)
