"""Predictions in windows against a computation over the whole image, which calls nothing under test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from PIL import Image
from torch import nn
from torch.nn import functional as F

from petseg.host.device import choose_placement
from petseg.inference import trained_network
from petseg.inference.network_inputs import InferenceOptions
from petseg.inference.probabilities import class_probabilities
from petseg.inference.sliding_window import Axis, slide, windows_at_once
from petseg.inference.trained_network import Predictor
from petseg.runs.recipe import default_recipe
from shards.errors import UsageError
from shards.format.builtin_labels import PETS
from shards.format.geometry import PAD_COLOUR, Size

LENGTHS = st.integers(1, 90)
WINDOWS = st.integers(1, 40)
OVERLAPS = st.sampled_from([0, 0.1, 0.25, 1 / 3, 0.5, 0.75, 0.9])


@given(length=st.integers(1, 5000), window=st.integers(1, 600), overlap=OVERLAPS)
def test_windows_reach_both_ends_and_overlap_enough(length: int, window: int, overlap: float) -> None:
    starts = Axis.of(length, window=window, overlap=overlap).starts
    if length <= window:
        (start,) = starts
        before, after = -start, window - length + start
        assert before >= 0
        assert 0 <= after - before <= 1
        return
    assert starts[0] == 0
    assert starts[-1] + window == length
    steps = np.diff(starts)
    most = max(1, math.floor(Fraction(window) * (1 - Fraction(overlap).limit_denominator(100))))
    assert steps.min() >= 1
    assert steps.max() <= most
    assert steps.max() - steps.min() <= 1
    assert len(starts) == 1 + math.ceil((length - window) / most)  # no more than are needed


@given(length=LENGTHS, window=WINDOWS, overlap=OVERLAPS)
def test_weights_are_gaussian_and_add_up_to_one(length: int, window: int, overlap: float) -> None:
    axis = Axis.of(length, window=window, overlap=overlap)
    total = np.zeros(max(length, window))
    for start, weights in zip(axis.starts, axis.weights, strict=True):
        first = start - min(0, axis.starts[0])
        total[first : first + window] += weights
        assert (weights > 0).all()
    np.testing.assert_allclose(total, 1, atol=1e-6)
    alone = Axis.of(window, window=window, overlap=overlap).weights
    np.testing.assert_allclose(alone[0], 1, atol=1e-6)


def pixel_values(windows: Sequence[Image.Image]) -> torch.Tensor:
    """Stands for a network: three numbers of each pixel that depend on its place in the window, too."""
    stacked = torch.from_numpy(np.stack([np.asarray(each) for each in windows])).permute(0, 3, 1, 2).float() / 255
    height, width = stacked.shape[2:]
    tilt = torch.linspace(0, 1, height)[:, None] + torch.linspace(0, 2, width)
    return stacked * (1 + tilt)


def naive(pixels: np.ndarray, window: Size, overlap: float) -> np.ndarray:
    """Sum of weighted windows over sum of weights, in double precision, over the whole padded image."""
    height, width = pixels.shape[:2]
    canvas = np.empty((max(height, window[0]), max(width, window[1]), 3))
    canvas[:] = PAD_COLOUR
    top, left = ((a - b) // 2 for a, b in zip(canvas.shape, (height, width), strict=False))
    canvas[top : top + height, left : left + width] = pixels
    bells = [np.exp(-((np.arange(n) - (n - 1) / 2) ** 2) / (2 * (n / 8) ** 2)) for n in window]
    weights = np.outer(*bells)
    total, sums = np.zeros((3, *canvas.shape[:2])), np.zeros(canvas.shape[:2])
    for row in starts(canvas.shape[0], window[0], overlap):
        for column in starts(canvas.shape[1], window[1], overlap):
            place = slice(row, row + window[0]), slice(column, column + window[1])
            total[(slice(None), *place)] += pixel_values([canvas[place].astype(np.uint8)])[0].numpy() * weights  # type: ignore[list-item]
            sums[place] += weights
    return (total / sums)[:, top : top + height, left : left + width]


def starts(length: int, window: int, overlap: float) -> list[int]:
    step = max(1, math.floor(window * (1 - Fraction(overlap).limit_denominator(100))))
    count = 1 + math.ceil((length - window) / step)
    return [math.floor(Fraction(n * (length - window), max(1, count - 1)) + Fraction(1, 2)) for n in range(count)]


@settings(max_examples=60)
@given(
    shape=st.tuples(LENGTHS, LENGTHS),
    window=st.tuples(WINDOWS, WINDOWS),
    overlap=OVERLAPS,
    at_once=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_blocks_are_the_whole_images_average(
    shape: Size, window: Size, overlap: float, at_once: int, seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
    found = np.full((3, *shape), np.nan)
    given_to: list[int] = []

    def predict(windows: Sequence[Image.Image]) -> torch.Tensor:
        given_to.append(len(windows))
        assert {each.size for each in windows} == {(window[1], window[0])}
        return pixel_values(windows)

    for block in slide(Image.fromarray(pixels), predict, window=window, overlap=overlap, at_once=at_once):
        height, width = block.values.shape[1:]
        place = slice(None), slice(block.top, block.top + height), slice(block.left, block.left + width)
        assert np.isnan(found[place]).all()  # each pixel once
        found[place] = block.values
    np.testing.assert_allclose(found, naive(pixels, window, overlap), atol=2e-5)
    assert max(given_to) <= at_once


@pytest.mark.parametrize("on_gpu", [False, True])
def test_windows_at_once_are_bounded(on_gpu: bool) -> None:
    assert windows_at_once((64, 64), classes=3, batch_size=4, on_gpu=on_gpu) == 4
    assert windows_at_once((4096, 4096), classes=150, batch_size=64, on_gpu=on_gpu) == 1
    many = windows_at_once((512, 512), classes=21, batch_size=64, on_gpu=on_gpu)
    assert many == (32 if on_gpu else 2)


class Edges(nn.Module):
    """A network whose logits depend on each pixel and its neighbours, up to 2 pixels away; no normalisation."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Conv2d(3, classes, 5, padding=2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layer(image.float() / 16)
        return logits


def edges(size: Size, **recipe: Any) -> Predictor:
    chosen = replace(default_recipe("unet"), size=size, **recipe)
    placement = choose_placement(torch.device("cpu"), "fp32")
    return Predictor(Edges().eval(), recipe=chosen, labels=PETS, placement=placement, source=Path("x"), size=size)


def photo(height: int, width: int, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def probabilities_of(pixels: Image.Image, *, flip: bool = False) -> torch.Tensor:
    """Softmax of the network for one image, (1, N, H, W), optionally averaged with its flipped image's."""
    with torch.inference_mode():
        tensor = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None]
        network = Edges()
        found = network(tensor).softmax(1)
        return (found + network(tensor.flip(3)).softmax(1).flip(3)) / 2 if flip else found


def resized(values: torch.Tensor, size: Size) -> torch.Tensor:
    return F.interpolate(values, size=size, mode="bilinear", align_corners=False, antialias=True)


@pytest.mark.parametrize("flip", [False, True])
def test_scales_are_averaged_at_the_largest_ones_resolution(flip: bool) -> None:
    image = photo(90, 140)
    found = edges((40, 64)).predict(image, scales=(0.75, 1, 1.25), flip_tta=flip)
    maps = []
    for size in ((30, 48), (40, 64), (50, 80)):
        small = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        maps.append(resized(probabilities_of(small, flip=flip), (50, 80)))
    expected = resized(sum(maps) / 3, (90, 140))[0]  # type: ignore[arg-type]
    torch.testing.assert_close(torch.from_numpy(found.probabilities), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.index, found.probabilities.argmax(0))


def test_what_an_evaluation_averages_over_scales_are_probabilities() -> None:
    image = torch.from_numpy(np.array(photo(40, 64))).permute(2, 0, 1)[None]
    placement = choose_placement(torch.device("cpu"), "fp32")
    found = class_probabilities(Edges().eval(), image, placement=placement, scales=(0.5, 1.0, 1.5))
    torch.testing.assert_close(found.sum(dim=1), torch.ones(1, 40, 64))


@pytest.mark.parametrize("window", ["auto", (40, 64), (30, 20), "64"])
@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.5)])
def test_a_window_is_predicted_as_an_image_of_its_size(window: Any, scales: tuple[float, ...]) -> None:
    image, size = photo(100, 150), (40, 64)
    options = {"window": window, "overlap": 0.3, "scales": scales, "flip_tta": True}
    found = edges(size).predict(image, **options)
    side = {"auto": (40, 64), "64": (64, 64)}.get(window, window)
    pixels, total = np.asarray(image), np.zeros((3, 100, 150))
    sums = np.zeros((100, 150))
    weights = np.outer(*[np.exp(-((np.arange(n) - (n - 1) / 2) ** 2) / (2 * (n / 8) ** 2)) for n in side])
    for row in starts(100, side[0], 0.3):
        for column in starts(150, side[1], 0.3):
            place = slice(row, row + side[0]), slice(column, column + side[1])
            part = edges(size).predict(pixels[place], scales=scales, flip_tta=True)
            total[(slice(None), *place)] += part.probabilities * weights
            sums[place] += weights
    np.testing.assert_allclose(found.probabilities, total / sums, atol=1e-5)
    np.testing.assert_array_equal(found.index, found.probabilities.argmax(0))


def test_inside_a_window_nothing_differs_from_the_whole_image_at_its_own_scale() -> None:
    """Where windows have enough neighbours of a pixel, all see the same: blending changes nothing, up to rounding."""
    image = photo(64, 96)
    found = edges((64, 48)).predict(image, window="auto", overlap=0.5).probabilities
    whole = probabilities_of(image)[0].numpy()
    inner = np.ones(96, bool)
    for start in (0, 24, 48):
        for border in (start, start + 48):
            if 0 < border < 96:
                inner[border - 2 : border + 2] = False
    assert inner.sum() > 60
    np.testing.assert_allclose(found[:, :, inner], whole[:, :, inner], atol=1e-5)


def test_a_network_trained_on_crops_gets_windows_at_their_scale() -> None:
    image = photo(120, 100)
    half = edges((32, 48), crop_scale=(0.5, 0.5))
    assert half.window(InferenceOptions()) == (64, 96)
    found = half.predict(image, overlap=0)
    assert found.index.shape == (120, 100)
    top = half.predict(np.asarray(image)[:64, :96], overlap=0)
    np.testing.assert_allclose(found.probabilities[:, :50, :4], top.probabilities[:, :50, :4], atol=1e-5)
    expected = resized(
        probabilities_of(image.crop((0, 0, 96, 64)).resize((48, 32), Image.Resampling.BILINEAR)), (64, 96)
    )
    np.testing.assert_allclose(top.probabilities, expected[0], atol=1e-5)
    assert edges((32, 48), crop_scale=(0.5, 2.0)).window(InferenceOptions()) == (32, 48)
    assert edges((32, 48)).window(InferenceOptions()) is None
    assert edges((32, 48)).window(InferenceOptions(window="auto")) == (32, 48)


def test_kept_probabilities_are_those_of_every_nth_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    image, network = photo(70, 90), edges((32, 32))
    whole = network.predict(image, window="auto")
    assert whole.coarse.shape == (3, 70, 90)
    monkeypatch.setattr(trained_network, "_KEPT_VALUES", 3 * 70 * 90 // 8)
    part = network.predict(image, window="auto")
    assert part.coarse.shape == (3, 23, 30)
    torch.testing.assert_close(part.coarse, whole.coarse[:, 1::3, 1::3])
    np.testing.assert_array_equal(part.index, whole.index)
    (exact,) = network.predict_batch([image], InferenceOptions(window="auto"), keep="all")
    torch.testing.assert_close(exact.coarse, whole.coarse)
    assert network.predict(photo(1, 4000), window="auto").coarse.numel() > 0
    (none,) = network.predict_batch([image], InferenceOptions(window="auto"), keep="none")
    assert none.coarse.numel() == 0
    np.testing.assert_array_equal(none.index, whole.index)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"window": 8}, "window=8: give N or HxW"),
        ({"window": "96by4"}, "window='96by4'"),
        ({"overlap": 0.95}, "overlap=0.95"),
        ({"overlap": float("nan")}, "overlap=nan"),
        ({"overlap": "half"}, "overlap 'half'"),
        ({"scales": 0.5}, "scales 0.5"),
        ({"scales": ()}, "scales"),
        ({"scales": (1, 9)}, r"scales=\(1.0, 9.0\)"),
        ({"scales": (float("nan"),)}, r"scales=\(nan,\)"),
    ],
)
def test_impossible_options_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        edges((32, 32)).predict(photo(40, 40), **wrong)
