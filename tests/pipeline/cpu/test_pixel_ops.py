"""Operations on pixels against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cpu import pixel_ops


def triangle_weights(length: int, size: int) -> np.ndarray:
    """The filter by its definition: (S, L) weights, a triangle of half-width max(1, L / S), normalised; float64."""
    scale = length / size
    centres = (np.arange(size) + 0.5) * scale
    weights = np.clip(1 - np.abs((np.arange(length) + 0.5)[None] - centres[:, None]) / max(scale, 1), 0, None)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    "shape", [(375, 500), (500, 333), (128, 128), (90, 70), (128, 90), (300, 60), (1, 1), (2, 700), (129, 127)]
)
@pytest.mark.parametrize("flip", [False, True])
def test_images_are_resized_as_the_filter_is_defined(shape: tuple[int, int], flip: bool) -> None:
    random = np.random.default_rng(0)
    region = random.integers(0, 256, (*shape, 3), dtype=np.uint8)
    pixels = random.integers(0, 256, (shape[0] + 5, shape[1] + 9, 3), dtype=np.uint8)
    pixels[3 : 3 + shape[0], 4 : 4 + shape[1]] = region
    out = np.empty((128, 128, 3), np.uint8)
    pixel_ops.transform_image(pixels, (3, 4, *shape), flip=flip, colour=None, out=out)
    rows, columns = triangle_weights(shape[0], 128), triangle_weights(shape[1], 128)
    exact = np.einsum("ih,hwc,jw->ijc", rows, region.astype(float), columns, optimize=True)
    difference = np.abs(out.astype(float) - (exact[:, ::-1] if flip else exact))
    assert difference.max() <= 1.6, difference.max()  # half a level, and what rounding between the passes adds
    assert difference.mean() <= 0.35


@given(
    height=st.integers(1, 400),
    width=st.integers(1, 400),
    size=st.integers(1, 200),
    flip=st.booleans(),
    seed=st.integers(0, 9),
)
@settings(max_examples=150, deadline=None)
def test_masks_take_exactly_the_pixel_under_the_centre(
    height: int, width: int, size: int, flip: bool, seed: int
) -> None:
    random = np.random.default_rng(seed)
    mask = random.integers(1, 4, (height + 3, width + 2), dtype=np.uint8)
    out = np.empty((size, size), np.uint8)
    pixel_ops.transform_mask(mask, (2, 1, height, width), flip=flip, out=out)
    rows = [2 + (2 * i + 1) * height // (2 * size) for i in range(size)]
    columns = [1 + (2 * i + 1) * width // (2 * size) for i in range(size)]
    wanted = mask[np.ix_(rows, columns)]
    assert np.array_equal(out, wanted[:, ::-1] if flip else wanted)


def test_opencv_is_not_always_exact_and_that_is_noticed() -> None:
    known = [
        (length, size)
        for length in range(1, 1200)
        for size in (100, 128)
        if not pixel_ops.opencv_is_exact(length, size)
    ]
    assert known  # else the last branch of transform_mask would be dead code
    length, size = known[0]
    mask = np.random.default_rng(0).integers(1, 4, (length, length), dtype=np.uint8)
    out = np.empty((size, size), np.uint8)
    pixel_ops.transform_mask(mask, (0, 0, length, length), flip=False, out=out)
    places = [(2 * i + 1) * length // (2 * size) for i in range(size)]
    assert np.array_equal(out, mask[np.ix_(places, places)])


def test_invalid_values_are_found() -> None:
    masks = np.random.default_rng(0).integers(1, 4, (5, 8, 8), dtype=np.uint8)
    assert pixel_ops.invalid_masks(masks) == []
    masks[1, 2, 3], masks[4, 7, 7] = 0, 255
    assert pixel_ops.invalid_masks(masks) == [1, 4]
