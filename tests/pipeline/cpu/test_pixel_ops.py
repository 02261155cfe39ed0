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
    size=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    flip=st.booleans(),
    seed=st.integers(0, 9),
)
@settings(max_examples=150, deadline=None)
def test_masks_take_exactly_the_pixel_under_the_centre(
    height: int, width: int, size: tuple[int, int], flip: bool, seed: int
) -> None:
    """In a whole output, and in a part of a larger one, whose other pixels stay as they are."""
    random = np.random.default_rng(seed)
    mask = random.integers(0, 256, (height + 3, width + 2), dtype=np.uint8)
    rows = [2 + (2 * i + 1) * height // (2 * size[0]) for i in range(size[0])]
    columns = [1 + (2 * i + 1) * width // (2 * size[1]) for i in range(size[1])]
    wanted = mask[np.ix_(rows, columns)]
    wanted = wanted[:, ::-1] if flip else wanted
    out = np.empty(size, np.uint8)
    pixel_ops.transform_mask(mask, (2, 1, height, width), flip=flip, out=out)
    assert np.array_equal(out, wanted)
    large = random.integers(0, 256, (size[0] + 4, size[1] + 5), dtype=np.uint8)
    expected = large.copy()
    expected[1 : size[0] + 1, 2 : size[1] + 2] = wanted
    part = large[1 : size[0] + 1, 2 : size[1] + 2]
    pixel_ops.transform_mask(mask, (2, 1, height, width), flip=flip, out=part)
    assert np.array_equal(large, expected)


@pytest.mark.parametrize("shape", [(30, 20), (7, 9), (40, 11), (1, 1), (12, 80)])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("coloured", [False, True])
def test_an_image_in_a_part_of_an_output_is_what_it_is_alone(
    shape: tuple[int, int], flip: bool, coloured: bool
) -> None:
    """Whether it is copied, enlarged, shrunk, flipped or coloured: the rest of the output stays as it is."""
    random = np.random.default_rng(1)
    pixels = random.integers(0, 256, (*shape, 3), dtype=np.uint8)
    colour = random.random((3, 4), dtype=np.float32) if coloured else None
    alone = np.empty((30, 20, 3), np.uint8)
    pixel_ops.transform_image(pixels, (0, 0, *shape), flip=flip, colour=colour, out=alone)
    large = random.integers(0, 256, (33, 27, 3), dtype=np.uint8)
    expected = large.copy()
    expected[2:32, 3:23] = alone
    pixel_ops.transform_image(pixels, (0, 0, *shape), flip=flip, colour=colour, out=large[2:32, 3:23])
    assert np.array_equal(large, expected)


def test_bars_are_filled_and_nothing_else() -> None:
    for place in ((0, 0, 6, 9), (2, 0, 3, 9), (0, 4, 6, 1), (1, 2, 3, 4)):
        top, left, height, width = place
        for fill, shape in ((255, (6, 9)), ((124, 116, 104), (6, 9, 3))):
            out = np.zeros(shape, np.uint8)
            inside = pixel_ops.place_inside(out, place, fill)
            assert inside.shape[:2] == (height, width)
            inside[:] = 7
            expected = np.broadcast_to(np.array(fill, np.uint8), shape).copy()
            expected[top : top + height, left : left + width] = 7
            assert np.array_equal(out, expected)


@pytest.mark.parametrize("length", [67, 333, 1199])
def test_masks_take_the_exact_nearest_pixels_at_any_length(length: int) -> None:
    size = 100
    mask = np.random.default_rng(0).integers(0, 4, (length, length), dtype=np.uint8)
    out = np.empty((size, size), np.uint8)
    pixel_ops.transform_mask(mask, (0, 0, length, length), flip=False, out=out)
    places = [(2 * i + 1) * length // (2 * size) for i in range(size)]
    assert np.array_equal(out, mask[np.ix_(places, places)])


@pytest.mark.parametrize("count", [1, 2, 3, 17, 254, 255])
def test_invalid_values_are_found(count: int) -> None:
    masks = np.random.default_rng(0).integers(0, count, (5, 8, 8), dtype=np.uint8)
    assert pixel_ops.invalid_masks(masks, count) == []
    masks[0, 1, 1] = masks[4, 0, 0] = 255  # ignored
    assert pixel_ops.invalid_masks(masks, count) == []
    if count < 255:
        masks[1, 2, 3], masks[4, 7, 7] = 254, count
        assert pixel_ops.invalid_masks(masks, count) == [1, 4]


@pytest.mark.parametrize("count", [1, 2, 3, 8, 9, 17, 150, 255])
def test_planes_are_one_where_the_class_is(count: int) -> None:
    random = np.random.default_rng(count)
    classes = random.integers(0, count, (3, 5, 7), dtype=np.uint8)
    classes[random.random(classes.shape) < 0.2] = 255
    planes = np.full((3, count, 5, 7), 77, np.uint8)
    pixel_ops.encode_onehot(classes, planes)
    expected = np.zeros_like(planes)
    for place in np.ndindex(classes.shape):
        if classes[place] != 255:
            expected[place[0], classes[place], place[1], place[2]] = 1
    assert np.array_equal(planes, expected)
