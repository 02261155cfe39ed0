"""Sizes and fits, against a computation in exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import UsageError, command_line
from shards.format.geometry import FITS, Size, cover_sizes, fit_boxes, nearest_places, parse_size, placements, size_text

SIDES = st.one_of(st.integers(1, 12), st.integers(1, 5000), st.integers(1, 2**20))
OUTPUTS = st.tuples(st.integers(1, 700), st.integers(1, 700))


def rounded(value: Fraction) -> int:
    """To the nearest whole number, half up."""
    return math.floor(value + Fraction(1, 2))


def boxes_of(heights: list[int], widths: list[int], size: Size, fit: Any) -> list[list[int]]:
    found: list[list[int]] = fit_boxes(np.array(heights), np.array(widths), size=size, fit=fit).tolist()
    return found


@settings(max_examples=200)
@given(SIDES, SIDES, OUTPUTS)
def test_a_cover_box_is_the_largest_of_the_outputs_shape(height: int, width: int, size: Size) -> None:
    ((top, left, box_height, box_width),) = boxes_of([height], [width], size, "cover")
    shape = Fraction(size[0], size[1])  # height by width
    if Fraction(height, width) > shape:
        assert (box_height, box_width) == (min(max(rounded(width * shape), 1), height), width)
    else:
        assert (box_height, box_width) == (height, min(max(rounded(height / shape), 1), width))
    assert (top, left) == ((height - box_height) // 2, (width - box_width) // 2)
    assert box_height in (height, box_height)
    assert box_height == height or box_width == width  # no larger box is inside


@settings(max_examples=200)
@given(SIDES, SIDES, OUTPUTS)
def test_a_letterbox_keeps_the_shape_and_touches_two_sides(height: int, width: int, size: Size) -> None:
    boxes = np.array([[0, 0, height, width]], dtype=np.int32)
    ((top, left, placed_height, placed_width),) = placements(boxes, size=size, fit="contain").tolist()
    scale = min(Fraction(size[0], height), Fraction(size[1], width))
    assert placed_height == min(max(rounded(height * scale), 1), size[0])
    assert placed_width == min(max(rounded(width * scale), 1), size[1])
    assert placed_height == size[0] or placed_width == size[1]
    assert (top, left) == ((size[0] - placed_height) // 2, (size[1] - placed_width) // 2)


@given(st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=20), OUTPUTS, st.sampled_from(FITS))
def test_many_at_once_are_as_one_by_one(sizes: list[tuple[int, int]], size: Size, fit: Any) -> None:
    heights, widths = [height for height, _ in sizes], [width for _, width in sizes]
    together = boxes_of(heights, widths, size, fit)
    assert together == [boxes_of([h], [w], size, fit)[0] for h, w in sizes]
    placed = placements(np.array(together, dtype=np.int32), size=size, fit=fit)
    assert placed.dtype == np.int32
    for (top, left, height, width), box in zip(placed.tolist(), together, strict=True):
        assert 0 <= top <= top + height <= size[0]
        assert 0 <= left <= left + width <= size[1]
        assert min(height, width, *box[2:]) >= 1
        if fit != "contain":
            assert (top, left, height, width) == (0, 0, *size)
        if fit != "cover":
            assert box[:2] == [0, 0]


@given(SIDES, SIDES, OUTPUTS)
def test_images_of_the_outputs_own_shape_are_taken_whole(height: int, width: int, size: Size) -> None:
    scale = min(height, 900)
    h, w = size[0] * scale, size[1] * scale
    assert boxes_of([h], [w], size, "cover") == [[0, 0, h, w]]
    assert [each.tolist() for each in cover_sizes(np.array([h]), np.array([w]), size)] == [[h], [w]]
    assert placements(np.array([[0, 0, h, w]], dtype=np.int32), size=size, fit="contain").tolist() == [[0, 0, *size]]


@settings(max_examples=200)
@given(SIDES, st.integers(1, 700))
def test_the_nearest_pixel(length: int, size: int) -> None:
    places = nearest_places(length, size)
    exact = [math.floor((i + Fraction(1, 2)) * Fraction(length, size)) for i in range(size)]
    assert places.tolist() == exact
    assert places[0] >= 0
    assert places[-1] < length
    if length == size:
        assert exact == list(range(size))
    with pytest.raises(ValueError, match="read-only"):  # it is shared
        places[0] = 1


@given(st.integers(1, 4096), st.integers(1, 4096))
def test_sizes_are_read_back(height: int, width: int) -> None:
    size = (height, width)
    forms: list[Any] = [size_text(size), f"{height}x{width}", f"{height}X{width}", size, [height, width]]
    forms += [height, str(height)] if height == width else []
    assert all(parse_size(form) == size for form in forms)


BAD_SIZES = ["", "x", "96x", "x96", "96x160x3", "-1", "1.5", "96 x 160", "٣", "0", "4097", "1e2", 0, -1, 4097, 1.0,
             True, None, (), (1,) * 3, (96, 0), (96, True), (96, "160"), [96, 1.5], {96: 1}, "9" * 5000]  # fmt: skip


@pytest.mark.parametrize("value", BAD_SIZES, ids=lambda value: repr(value)[:20])
def test_bad_sizes_name_the_option_and_say_what_is_right(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^size=.*give N or HxW \(height x width\) in pixels, such as 128") as caught:
        parse_size(value, name="size")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(("value", "typed"), [((0, 0), "0"), ((20, 5000), "20x5000"), ("2x5000", "2x5000"), (0, "0")])
def test_a_wrong_size_is_shown_to_a_command_as_it_is_typed(value: Any, typed: str) -> None:
    with command_line(), pytest.raises(UsageError, match=rf"^--size {typed}: give N or HxW"):
        parse_size(value, least=4)


def test_the_limits_of_a_size() -> None:
    assert parse_size("16x32", least=16, most=32) == (16, 32)
    for value in ("15x32", "16x33"):
        with pytest.raises(UsageError, match="each side from 16 to 32"):
            parse_size(value, least=16, most=32)
