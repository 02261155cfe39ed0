"""JPEGs decoded at a reduced scale: which scale, which box, and the pixels, against exact fractions and Pillow."""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline import Loader
from pipeline.cpu.scaled_jpeg import decode_scaled_jpeg, jpeg_scales, scaled_box, scaled_length
from pipeline.io.scratch import Scratch
from shards.errors import PetsegError, UsageError


@st.composite
def shown_parts(draw: st.DrawFn) -> tuple[tuple[int, int], tuple[int, int, int, int], tuple[int, int]]:
    """Height and width of an image, a box in it, and the size that it is shown at."""
    size = draw(st.tuples(st.integers(1, 3000), st.integers(1, 3000)))
    lengths = [draw(st.integers(1, side)) for side in size]
    starts = [draw(st.integers(0, side - length)) for side, length in zip(size, lengths, strict=True)]
    return size, (*starts, *lengths), draw(st.tuples(st.integers(1, 600), st.integers(1, 600)))


@given(shown_parts())
def test_the_smallest_scale_that_is_not_below_the_output_is_chosen(part: Any) -> None:
    size, box, place = part
    chosen = int(jpeg_scales(np.array([box]), np.array([(0, 0, *place)]), tuple(np.array([side]) for side in size))[0])

    def is_enough(eighths: int) -> bool:
        scaled = scaled_box(box, full=size, scaled=tuple(scaled_length(side, eighths) for side in size))
        return scaled[2] >= place[0] and scaled[3] >= place[1]

    assert chosen == next((eighths for eighths in (1, 2, 4) if is_enough(eighths)), 8)


@given(shown_parts(), st.sampled_from([1, 2, 4, 8]))
def test_a_box_moves_by_at_most_half_a_pixel(part: Any, eighths: int) -> None:
    size, box, _ = part
    scaled = tuple(scaled_length(side, eighths) for side in size)
    found = scaled_box(box, full=size, scaled=scaled)
    for side in (0, 1):
        for place, end in ((found[side], box[side]), (found[side] + found[side + 2], box[side] + box[side + 2])):
            assert 0 <= place <= scaled[side]
            assert abs(place - Fraction(end * scaled[side], size[side])) <= Fraction(1, 2)


@pytest.mark.parametrize("eighths", [1, 2, 4])
@pytest.mark.parametrize("size", [(375, 500), (333, 499), (64, 65)])
def test_pixels_are_those_of_pillows_draft_mode(drawn_pair: Callable[..., Any], size: Any, eighths: int) -> None:
    data = drawn_pair("source", *size, 0).image
    pixels = decode_scaled_jpeg(np.frombuffer(data, np.uint8), size, eighths, Scratch())
    opened = Image.open(io.BytesIO(data))
    opened.draft("RGB", tuple(side * eighths // 8 for side in size[::-1]))  # which it is not below
    assert not isinstance(pixels, str)
    assert pixels.shape[:2] == opened.size[::-1] == tuple(-(-side * eighths // 8) for side in size)
    assert np.abs(pixels.astype(int) - np.asarray(opened).astype(int)).max() <= 1


def test_another_size_and_damage_are_named(drawn_pair: Callable[..., Any]) -> None:
    data = np.frombuffer(drawn_pair("source", 200, 300, 0).image, np.uint8)
    assert decode_scaled_jpeg(data, (200, 301), 4, Scratch()) == "300 x 200 pixels, the table says 301 x 200"
    cut = decode_scaled_jpeg(data[: len(data) // 2], (200, 300), 4, Scratch())
    assert isinstance(cut, str)
    assert "cannot be decoded" in cut
    header = decode_scaled_jpeg(data[:10], (200, 300), 4, Scratch())
    assert isinstance(header, str)


@pytest.mark.parametrize("augment", [None, "train"])
def test_a_scaled_epoch_has_the_same_masks_and_nearly_the_same_images(sets: dict[str, Path], augment: Any) -> None:
    epochs = {}
    for name, options in {
        "full": {},
        "threads": {"decode": "scaled", "threads": 3},
        "processes": {"decode": "scaled", "processes": 1},
    }.items():
        with Loader(sets["source"], batch_size=16, size=48, device="cpu", augment=augment, **options) as loader:
            batches = list(loader)
        epochs[name] = [np.concatenate([getattr(b, field).numpy() for b in batches]) for field in ("image", "mask")]
    assert np.array_equal(epochs["full"][1], epochs["threads"][1])
    difference = np.abs(epochs["full"][0].astype(int) - epochs["threads"][0]).mean(axis=(1, 2, 3))
    assert 0 < difference.mean() < 8  # of noise; of photographs it is 1 to 2
    assert (difference == 0).any()  # images that are not twice the output's size
    assert all(np.array_equal(*each) for each in zip(epochs["threads"], epochs["processes"], strict=True))


def test_where_it_cannot_be_had_or_was_not_used(sets: dict[str, Path]) -> None:
    options: dict[str, Any] = {"batch_size": 8, "size": 48, "device": "cpu"}
    with pytest.raises(UsageError, match="decode='scaled' works with engine torch, not with dali"):
        Loader(sets["source"], decode="scaled", engine="dali", **options)
    with pytest.raises(UsageError, match="decode 'half' is unknown; use full, scaled"):
        Loader(sets["source"], decode="half", **options)
    with Loader(sets["source"], **options) as full, Loader(sets["source"], decode="scaled", **options) as scaled:
        assert scaled.engine == "torch"
        with pytest.raises(PetsegError, match="decode: saved 'full', now 'scaled'"):
            scaled.load_state_dict(full.state_dict())
        earlier = {name: value for name, value in full.state_dict().items() if name != "decode"}
        full.load_state_dict(earlier)
