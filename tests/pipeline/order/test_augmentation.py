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
)
from shards.errors import UsageError

PRESET = Augmentation()


def draw(augmentation: Augmentation | None, indices: np.ndarray, *, seed: int = 3, epoch: int = 5) -> Parameters:
    random = np.random.default_rng(0)
    shapes = random.integers(1, 700, (10_000, 2))[np.asarray(indices) % 10_000]
    return draw_parameters(
        augmentation, seed=seed, epoch=epoch, indices=indices, heights=shapes[:, 0], widths=shapes[:, 1]
    )


def same(a: Parameters, b: Parameters) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


@given(
    height=st.integers(1, 2000),
    width=st.integers(1, 2000),
    least=st.floats(0.001, 1),
    ratio=st.floats(1, 20),
    seed=st.integers(0, 2**32),
)
def test_boxes_lie_within_the_image(height: int, width: int, least: float, ratio: float, seed: int) -> None:
    augmentation = Augmentation(area=(least, 1.0), ratio=(1 / ratio, ratio))
    count = 50
    boxes = draw_parameters(
        augmentation,
        seed=seed,
        epoch=0,
        indices=np.arange(count),
        heights=np.full(count, height),
        widths=np.full(count, width),
    ).boxes
    top, left, box_height, box_width = boxes.T
    assert boxes.dtype == np.int32
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (box_height >= 1).all()
    assert (box_width >= 1).all()
    assert (top + box_height <= height).all()
    assert (left + box_width <= width).all()


def test_boxes_keep_the_area_that_was_asked_for() -> None:
    indices = np.arange(4000)
    heights, widths = np.full(4000, 1000), np.full(4000, 1500)
    boxes = draw_parameters(PRESET, seed=0, epoch=0, indices=indices, heights=heights, widths=widths).boxes.astype(
        float
    )
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
        None, seed=0, epoch=0, indices=np.array([4]), heights=np.array([30]), widths=np.array([40])
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
