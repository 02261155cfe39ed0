"""Augmentation parameters as a pure function, by property."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.arguments import resolve_augment
from pipeline.order.augmentation import (
    CONTRAST_CENTRE,
    LUMA,
    Augmentation,
    Parameters,
    colour_matrices,
    draw_parameters,
    find_invalid,
)
from shards.errors import UsageError
from shards.format.geometry import FITS, Fit

PRESET = Augmentation()
SIZE = (96, 160)


def draw(augmentation: Augmentation | None, indices: np.ndarray, *, seed: int = 3, epoch: int = 5) -> Parameters:
    random = np.random.default_rng(0)
    shapes = random.integers(1, 700, (10_000, 2))[np.asarray(indices) % 10_000]
    return draw_parameters(
        augmentation, seed=seed, epoch=epoch, indices=indices, heights=shapes[:, 0], widths=shapes[:, 1], size=SIZE
    )


def same(a: Parameters, b: Parameters) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def draw_many(
    augmentation: Augmentation | None, image: tuple[int, int], size: tuple[int, int], fit: Fit, *, seed: int = 0
) -> Parameters:
    """Parameters of 50 samples of one (height, width)."""
    heights, widths = np.full(50, image[0]), np.full(50, image[1])
    return draw_parameters(
        augmentation, seed=seed, epoch=0, indices=np.arange(50), heights=heights, widths=widths, size=size, fit=fit
    )


def assert_inside(boxes: np.ndarray, height: int, width: int) -> None:
    top, left, box_height, box_width = boxes.T
    assert boxes.dtype == np.int32
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (box_height >= 1).all()
    assert (box_width >= 1).all()
    assert (top + box_height <= height).all()
    assert (left + box_width <= width).all()


SIDES = st.tuples(st.integers(1, 2000), st.integers(1, 2000))


@given(
    image=SIDES,
    size=SIDES,
    fit=st.sampled_from(FITS),
    area=st.none() | st.floats(0.001, 1),
    ratio=st.floats(1, 20),
    seed=st.integers(0, 2**32),
)
def test_boxes_lie_within_the_image_and_places_within_the_output(
    image: tuple[int, int], size: tuple[int, int], fit: Fit, area: float | None, ratio: float, seed: int
) -> None:
    augmentation = Augmentation(area=None if area is None else (area, 1.0), ratio=(1 / ratio, ratio))
    for drawn in (draw_many(augmentation, image, size, fit, seed=seed), draw_many(None, image, size, fit)):
        assert_inside(drawn.boxes, *image)
        assert_inside(drawn.places, *size)
        if fit != "contain":
            assert (drawn.places == [0, 0, *size]).all()


@given(image=SIDES, size=SIDES, area=st.none() | st.floats(0.001, 1))
def test_cover_keeps_the_aspect_ratio_of_the_output(
    image: tuple[int, int], size: tuple[int, int], area: float | None
) -> None:
    """Up to half a pixel of either side, or a whole one where the cover box was rounded before."""
    augmentation = Augmentation(area=None if area is None else (area, area), ratio=(1.0, 1.0))
    largest = min(image[0] / size[0], image[1] / size[1])  # source pixels for each of the output's
    for drawn in (augmentation, None):
        _, _, heights, widths = draw_many(drawn, image, size, "cover").boxes.T
        scale = largest if drawn is None or area is None else largest * np.sqrt(area)
        assert (np.abs(heights - np.maximum(1, scale * size[0])) <= 1 + 1e-9).all()
        assert (np.abs(widths - np.maximum(1, scale * size[1])) <= 1 + 1e-9).all()


@given(image=SIDES, size=SIDES, area=st.none() | st.floats(0.001, 1))
def test_contain_keeps_the_aspect_ratio_of_the_box(
    image: tuple[int, int], size: tuple[int, int], area: float | None
) -> None:
    augmentation = Augmentation(area=None if area is None else (area, 1.0), ratio=(0.5, 2.0))
    drawn = draw_many(augmentation, image, size, "contain")
    for (_, _, height, width), (top, left, *placed) in zip(drawn.boxes.tolist(), drawn.places.tolist(), strict=True):
        scale = min(size[0] / height, size[1] / width)
        assert abs(placed[0] - max(1, scale * height)) <= 0.5 + 1e-9
        assert abs(placed[1] - max(1, scale * width)) <= 0.5 + 1e-9
        assert placed[0] == size[0] or placed[1] == size[1]
        assert abs(size[0] - placed[0] - 2 * top) <= 1
        assert abs(size[1] - placed[1] - 2 * left) <= 1


def test_cover_takes_the_middle_unless_it_augments() -> None:
    for image, size, middle in (((40, 100), (10, 10), [0, 30, 40, 40]), ((101, 20), (5, 10), [45, 0, 10, 20])):
        assert (draw_many(None, image, size, "cover").boxes == middle).all()
        for area in (None, (0.5, 1.0)):
            boxes = draw_many(Augmentation(area=area, ratio=(1, 1)), image, size, "cover").boxes
            starts = boxes[:, :2].max(axis=1)
            assert len(set(starts.tolist())) > 15
            assert starts.min() < 0.1 * max(image)
            if area is None:
                assert (boxes[:, 2:] == middle[2:]).all()


def test_what_stretching_draws_does_not_change() -> None:
    """The same seed gives the same batches in every release; these were drawn by the first."""
    indices = np.array([0, 1, 2, 7, 10**6])
    heights, widths = np.array([375, 1, 500, 64, 1000]), np.array([500, 1, 333, 301, 17])
    drawn = [
        draw_parameters(
            Augmentation.preset(name), seed=3, epoch=5, indices=indices, heights=heights, widths=widths, size=SIZE
        )
        for name in ("train", "strong")
    ]
    mild = [[24, 6, 347, 491], [0, 0, 1, 1], [35, 17, 401, 311], [8, 12, 54, 274], [0, 1, 1000, 15]]
    strong = [[40, 8, 328, 488], [0, 0, 1, 1], [57, 29, 336, 295], [13, 20, 48, 256], [0, 2, 1000, 14]]
    assert [each.boxes.tolist() for each in drawn] == [mild, strong]
    for each in drawn:
        assert each.flip.tolist() == [True, True, True, False, False]
        assert each.places.tolist() == [[0, 0, *SIZE]] * 5
    assert drawn[0].brightness.tolist() == pytest.approx([0.803642, 0.832144, 1.169477, 0.972766, 0.990105], abs=1e-6)
    assert drawn[1].saturation.tolist() == pytest.approx([1.320125, 0.392068, 1.388855, 1.594482, 0.829062], abs=1e-6)


@pytest.mark.parametrize("place", [(2, 0, 95, 160), (0, 0, 96, 0), (-1, 0, 5, 5), (0, 1, 96, 160)])
def test_places_outside_the_output_are_found(place: tuple[int, ...]) -> None:
    sides = np.full(50, 30)
    drawn = draw_many(PRESET, (30, 30), SIZE, "contain")
    assert find_invalid(drawn, heights=sides, widths=sides, size=SIZE) is None
    drawn.places[7] = place
    found = find_invalid(drawn, heights=sides, widths=sides, size=SIZE)
    assert found is not None
    assert found[0] == 7
    assert "is not inside the 160 x 96 output" in found[1]


def test_boxes_keep_the_area_that_was_asked_for() -> None:
    indices = np.arange(4000)
    heights, widths = np.full(4000, 1000), np.full(4000, 1500)
    drawn = draw_parameters(PRESET, seed=0, epoch=0, indices=indices, heights=heights, widths=widths, size=SIZE)
    boxes = drawn.boxes.astype(float)
    area = boxes[:, 2] * boxes[:, 3] / 1.5e6
    assert area.max() <= 1
    assert area.min() > 0.5 * 0.95  # a side that did not fit was cut
    assert abs(area.mean() - 0.72) < 0.03
    stretch = (boxes[:, 3] / 1500) / (boxes[:, 2] / 1000)
    assert 0.79 < stretch.min() < stretch.max() < 1.27


@given(
    wanted=st.lists(st.integers(0, 10**7), min_size=1, max_size=40, unique=True),
    seed=st.integers(0, 99),
    epoch=st.integers(0, 99),
)
def test_a_samples_parameters_do_not_depend_on_the_rest_of_the_batch(wanted: list[int], seed: int, epoch: int) -> None:
    indices = np.array(wanted)
    together = draw(PRESET, indices, seed=seed, epoch=epoch)
    for place in range(len(indices)):
        alone = draw(PRESET, indices[place : place + 1], seed=seed, epoch=epoch)
        assert all(
            np.array_equal(x[place : place + 1], y)
            for x, y in zip(vars(together).values(), vars(alone).values(), strict=True)
        )


def test_seed_and_epoch_change_the_parameters() -> None:
    indices = np.arange(100)
    first = draw(PRESET, indices)
    assert same(first, draw(PRESET, indices))
    assert not same(first, draw(PRESET, indices, epoch=6))
    assert not same(first, draw(PRESET, indices, seed=4))


@pytest.mark.parametrize("part", ["area", "flip", "brightness", "contrast", "saturation"])
def test_switching_one_part_off_leaves_the_others_as_they_are(part: str) -> None:
    indices = np.arange(300)
    on = vars(draw(PRESET, indices))
    off = vars(draw(replace(PRESET, **{part: None if part == "area" else 0}), indices))
    field = "boxes" if part == "area" else part
    for name, value in on.items():
        assert np.array_equal(value, off[name]) is (name != field), name
    neutral = {"flip": False, "brightness": 1, "contrast": 1, "saturation": 1}
    if part != "area":
        assert (off[part] == neutral[part]).all()
    else:
        assert (off["boxes"][:, :2] == 0).all()


def test_flips_come_half_of_the_time() -> None:
    flips = draw(PRESET, np.arange(10_000)).flip
    assert abs(flips.mean() - 0.5) < 0.02
    assert draw(replace(PRESET, flip=1.0), np.arange(100)).flip.all()


def test_no_augmentation_is_the_whole_image() -> None:
    parameters = draw_parameters(
        None, seed=0, epoch=0, indices=np.array([4]), heights=np.array([30]), widths=np.array([40]), size=SIZE
    )
    assert parameters.boxes.tolist() == [[0, 0, 30, 40]]
    matrices, offsets = colour_matrices(parameters)
    assert np.array_equal(matrices[0], np.eye(3))
    assert not offsets.any()
    assert not parameters.flip.any()


@given(b=st.floats(0, 2), c=st.floats(0, 2), s=st.floats(0, 2), rgb=st.tuples(*[st.integers(0, 255)] * 3))
def test_the_colour_matrix_is_saturation_then_contrast_then_brightness(
    b: float, c: float, s: float, rgb: tuple[int, int, int]
) -> None:
    factors = [np.array([x], np.float32) for x in (b, c, s)]
    parameters = Parameters(
        boxes=np.zeros((1, 4), np.int32),
        places=np.zeros((1, 4), np.int32),
        flip=np.zeros(1, bool),
        brightness=factors[0],
        contrast=factors[1],
        saturation=factors[2],
    )
    matrix, offset = (x[0].astype(float) for x in colour_matrices(parameters))
    colour = np.array(rgb, float)
    grey = float(np.dot(LUMA, colour))
    step = grey + s * (colour - grey)
    step = CONTRAST_CENTRE + c * (step - CONTRAST_CENTRE)
    assert np.allclose(matrix @ colour + offset, b * step, atol=1e-2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"area": (0, 1)},
        {"area": (0.9, 0.5)},
        {"area": (0.5, 1.1)},
        {"area": (float("nan"), 1.0)},
        {"ratio": (0, 1)},
        {"ratio": (2, 1)},
        {"ratio": (float("nan"), 1)},
        {"flip": 1.5},
        {"flip": float("nan")},
        {"brightness": -0.1},
        {"contrast": float("nan")},
        {"saturation": 2},
    ],
)
def test_nonsense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Augmentation(**wrong)  # type: ignore[arg-type]


def test_the_strong_preset_keeps_less_of_an_image_and_changes_more_of_its_colour() -> None:
    assert Augmentation.preset("train") == resolve_augment("train") == PRESET
    strong = Augmentation.preset("strong")
    assert resolve_augment("strong") == strong
    indices = np.arange(10_000)
    mild, wild = draw(PRESET, indices), draw(strong, indices)
    areas = [np.prod(parameters.boxes[:, 2:].astype(float), axis=1).mean() for parameters in (mild, wild)]
    assert areas[1] < 0.9 * areas[0]
    for part in ("brightness", "contrast", "saturation"):
        assert getattr(wild, part).std() > 1.9 * getattr(mild, part).std(), part
    with pytest.raises(UsageError, match="'train', 'strong'"):
        resolve_augment("wild")
