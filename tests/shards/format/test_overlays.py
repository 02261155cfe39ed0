"""Drawing classes: against an independent computation pixel by pixel, and mask files as other programs read them."""

from __future__ import annotations

import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shards.format import overlays
from shards.format.builtin_labels import PETS
from shards.format.labels import IGNORE, UNTINTED, LabelClass, Labels, chosen_colour, colour_of
from shards.format.overlays import (
    DARK,
    HATCH,
    IGNORED_COLOUR,
    TINT,
    colour_map,
    indexed_mask,
    legend,
    outline_width,
    overlay,
)


def labels_of(count: int, *, rgb: bool = False, ignore: bool = True) -> Labels:
    """Class 0 is untinted; values descend from 254, so that no value is its index."""
    classes = []
    for index in range(count):
        source = {"source_colors": (f"#{index + 1:06x}",)} if rgb else {"values": (254 - index,)}
        colour = chosen_colour(index) if index else UNTINTED
        classes.append(LabelClass(name=f"class {index}", color=colour, **source))  # type: ignore[arg-type]
    ignored = {"ignore_colors": ("#ffffff",)} if rgb else {"ignore": (255,)}
    return Labels(classes=tuple(classes), **(ignored if ignore else {}))  # type: ignore[arg-type]


def expected_pixel(image: np.ndarray, mask: np.ndarray, labels: Labels, y: int, x: int, wide: int) -> list[int]:
    """One pixel of an overlay, by the words of its description."""
    height, width = mask.shape
    index = int(mask[y, x])
    before = [int(value) for value in image[y, x]]
    if index == IGNORE:
        weight, colour = HATCH[(y + x) // (4 * wide) % 2], IGNORED_COLOUR
    elif labels.classes[index].color == UNTINTED:
        return before
    else:
        cross = [(y + step, x) for step in range(-wide, wide + 1)] + [(y, x + step) for step in range(-wide, wide + 1)]
        near = {int(mask[r, c]) for r, c in cross if 0 <= r < height and 0 <= c < width}
        weight, colour = 256 if len(near) > 1 else TINT, colour_of(labels.classes[index].color)
    return [(b * (256 - weight) + c * weight + 128) // 256 for b, c in zip(before, colour, strict=True)]


@settings(max_examples=40)
@given(st.integers(1, 23), st.integers(1, 19), st.integers(1, 5), st.integers(0, 2**32), st.sampled_from([1, 2, 3]))
def test_an_overlay_pixel_by_pixel(height: int, width: int, count: int, seed: int, wide: int) -> None:
    """In strips of few rows, so that their seams are inside."""
    rng = np.random.default_rng(seed)
    labels = labels_of(count)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    coarse = rng.choice(np.array([*range(count), IGNORE], dtype=np.uint8), (-(-height // 4), -(-width // 4)))
    mask = np.repeat(np.repeat(coarse, 4, axis=0), 4, axis=1)[:height, :width]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlays, "STRIP_PIXELS", 50)
        patch.setattr(overlays, "outline_width", lambda *_: wide)
        drawn = overlay(image, mask, labels)
    for y in range(height):
        for x in range(width):
            assert drawn[y, x].tolist() == expected_pixel(image, mask, labels, y, x, wide), (y, x)


def test_outlines_grow_with_the_image() -> None:
    assert [outline_width(side, side) for side in (1, 128, 1000, 1400, 12_000)] == [1, 1, 1, 2, 17]


def test_memory_is_bounded() -> None:
    labels, image = labels_of(3), np.zeros((4000, 3000, 3), dtype=np.uint8)
    mask = np.tile(np.array([0, 1, 2, IGNORE], dtype=np.uint8), (4000, 750))
    tracemalloc.start()
    overlay(image, mask, labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < image.nbytes + 60 * 2**20


def test_colour_maps_show_every_class() -> None:
    mask = np.array([[0, 1, 2, IGNORE]], dtype=np.uint8)
    assert colour_map(mask, PETS).tolist() == [[[204, 80, 160], list(DARK), [0, 158, 255], list(IGNORED_COLOUR)]]


@pytest.mark.parametrize("count", [1, 2, 3, 17, 150, 254])
def test_index_masks_have_the_sources_values_and_colours(count: int) -> None:
    labels = labels_of(count)
    mask = np.random.default_rng(count).choice(np.array([*range(count), IGNORE], dtype=np.uint8), (31, 37))
    file = io.BytesIO()
    indexed_mask(mask, labels).save(file, "PNG")
    assert file.getvalue()[24:26] == b"\x08\x03"  # 8 bits, a palette
    read = Image.open(file)
    assert np.array_equal(labels.index_table()[0][np.asarray(read)], mask)
    shown = np.asarray(read.convert("RGB"))
    for index in range(count):
        assert (shown[mask == index] == colour_of(labels.classes[index].color)).all()


def test_rgb_masks_have_the_sources_colours() -> None:
    labels = labels_of(200, rgb=True)
    mask = np.random.default_rng(0).choice(np.array([*range(200), IGNORE], dtype=np.uint8), (31, 37))
    drawn = indexed_mask(mask, labels)
    assert drawn.mode == "RGB"
    packed = np.asarray(drawn).astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    assert np.array_equal(labels.colour_table()[packed], mask)


@pytest.mark.parametrize("rgb", [False, True])
def test_what_cannot_be_written_is_refused(rgb: bool) -> None:
    for index, ignore in ((3, True), (IGNORE, False)):
        with pytest.raises(ValueError, match=f"index {index}"):
            indexed_mask(np.array([[0, index]], dtype=np.uint8), labels_of(3, rgb=rgb, ignore=ignore))


@pytest.mark.parametrize(("count", "rows"), [(0, 1), (3, 1), (150, 13)])
def test_a_legend_wraps_and_shows_every_colour(count: int, rows: int) -> None:
    labels = labels_of(150)
    drawn = legend(labels, range(count), width=1200, font_size=13)
    assert drawn.width == 1200
    assert drawn.height <= rows * 21
    colours = {tuple(each) for each in np.unique(np.asarray(drawn).reshape(-1, 3), axis=0).tolist()}
    for each in labels.classes[1:count]:
        assert colour_of(each.color) in colours


def test_a_long_name_is_shortened_in_a_legend() -> None:
    labels = Labels(classes=(LabelClass(name="W" * 80, color="#ff0000", values=(1,)),))
    drawn = np.asarray(legend(labels, [0], width=120))
    assert drawn.shape == (21, 120, 3)
    assert (drawn[:, 116:] == 255).all()
