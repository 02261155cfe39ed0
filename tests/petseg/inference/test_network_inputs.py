"""Images of any size in every fit: what the network gets, and where its predictions land."""

from __future__ import annotations

from fractions import Fraction
from math import floor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_sets import build_labelled, many_labels
from msgspec.structs import replace
from PIL import Image
from torch import nn

from petseg.host.device import choose_placement
from petseg.inference import probabilities
from petseg.inference.network_inputs import InferenceOptions, network_input, same_sizes
from petseg.inference.stored_samples import read_image
from petseg.inference.trained_network import Predictor
from petseg.runs.recipe import default_recipe
from pipeline import Loader
from shards.format.builtin_labels import BINARY
from shards.format.geometry import FITS, PAD_COLOUR, Fit, Size
from shards.format.labels import LabelClass, Labels

SIDES = st.integers(1, 300)
SIZES = st.tuples(st.integers(32, 160), st.integers(32, 160))


@settings(max_examples=150, deadline=None)
@given(SIDES, SIDES, SIZES, st.sampled_from(FITS))
def test_the_whole_image_is_in_the_input(height: int, width: int, size: Size, fit: Fit) -> None:
    found = network_input(Image.new("RGB", (width, height), (10, 200, 30)), size=size, fit=fit)
    inside = found.pixels[found.rows, found.columns]
    assert (inside == (10, 200, 30)).all()
    assert inside.size > 0
    outside = np.ones(found.pixels.shape[:2], bool)
    outside[found.rows, found.columns] = False
    assert (found.pixels[outside] == PAD_COLOUR).all()
    rows, columns = inside.shape[:2]
    if fit == "cover":  # one side is that of the size, the other at least as long, and nothing is padded
        assert not outside.any()
        assert (rows == size[0] and columns >= size[1]) or (columns == size[1] and rows >= size[0])
    else:
        assert found.pixels.shape == (*size, 3)
        assert not outside.any() or fit == "contain"
    if fit == "contain":
        assert rows == size[0] or columns == size[1]
        # The aspect ratio is kept to a pixel.
        assert abs(rows * width - columns * height) <= max(height, width) * (1 + max(rows, columns) / 32)
    if fit == "cover":
        assert (rows, columns) == cover_input(height, width, size)


def cover_input(height: int, width: int, size: Size) -> Size:
    """The whole image, resized by the factors of the box that training cuts out of it, in exact fractions.

    That box has whole pixels, so its aspect ratio is that of the size but for half a pixel of a side.
    """

    def nearest(value: Fraction) -> int:
        return floor(value + Fraction(1, 2))

    box = height, width
    if height * size[1] > width * size[0]:
        box = min(max(nearest(Fraction(width * size[0], size[1])), 1), height), width
    else:
        box = height, min(max(nearest(Fraction(height * size[1], size[0])), 1), width)
    rows, columns = nearest(Fraction(height * size[0], box[0])), nearest(Fraction(width * size[1], box[1]))
    return max(rows, size[0]), max(columns, size[1])


def test_inputs_of_one_size_are_a_batch() -> None:
    images = [Image.new("RGB", size) for size in [(60, 40), (40, 60), (120, 80), (50, 50)]]
    inputs = [network_input(image, size=(32, 32), fit="cover") for image in images]
    assert sorted(map(sorted, same_sizes(inputs))) == [[0, 2], [1], [3]]
    inputs = [network_input(image, size=(32, 32), fit="contain") for image in images]
    assert list(same_sizes(inputs)) == [[0, 1, 2, 3]]


@pytest.fixture(scope="module")
def labelled_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_labelled(tmp_path_factory.mktemp("labelled"), many_labels(5), samples=10)


@pytest.mark.parametrize("size", [(64, 64), (48, 96), (96, 40)], ids=str)
@pytest.mark.parametrize("fit", FITS)
def test_the_network_gets_what_it_was_trained_on(labelled_set: Path, fit: Fit, size: Size) -> None:
    """The loader's images, from the same files; with ``cover`` they are the middle of the input."""
    options = {"split": "train", "batch_size": 4, "shuffle": False, "device": "cpu"}
    with Loader(labelled_set, size=size, fit=fit, **options) as loader:
        for batch in loader:
            for image, index in zip(batch.image, batch.index.tolist(), strict=True):
                expected = image.permute(1, 2, 0).numpy().astype(int)
                stored = Image.fromarray(read_image(loader.split, index))
                found = network_input(stored, size=size, fit=fit).pixels.astype(int)
                top, left = ((a - b) // 2 for a, b in zip(found.shape, size, strict=False))
                found = found[top : top + size[0], left : left + size[1]]
                # By other arithmetic. With cover the noise of the image may be half a pixel aside; its edges are not.
                difference = np.abs(found - expected)
                assert difference.mean() < (8 if fit == "cover" else 1)
                assert (difference > 60).mean() < (0.01 if fit == "cover" else 0.001)


@pytest.mark.parametrize("shape", [(3000, 40), (40, 3000), (20, 500), (700, 900)], ids=str)
def test_strips_of_many_classes_stay_small(shape: Size, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the shape, no tensor on the way is much larger than the coarse map or a strip."""
    coarse = torch.rand(1, 150, 32, 48)
    limit = 4 * coarse.numel()
    monkeypatch.setattr(probabilities, "_STRIP_VALUES", coarse.numel())
    sizes: list[int] = []
    interpolate = probabilities._interpolate
    monkeypatch.setattr(
        probabilities, "_interpolate", lambda *given: (found := interpolate(*given), sizes.append(found.numel()))[0]
    )
    rows = 0
    for strip in probabilities.resized_strips(coarse, *shape):
        assert strip.shape[:2] == (1, 150)
        assert strip.shape[3] == shape[1]
        sizes.append(strip.numel())
        rows += strip.shape[2]
    assert rows == shape[0]
    assert max(sizes) <= limit


@pytest.mark.parametrize(("coarse", "size"), [((64, 1), (50, 1)), ((64, 1), (30, 20)), ((64, 2), (30, 1))], ids=str)
def test_images_one_pixel_wide_keep_their_classes_apart(coarse: Size, size: Size) -> None:
    maps = torch.rand(2, 3, *coarse, generator=torch.Generator().manual_seed(0))
    found = probabilities.resize_probabilities(maps, *size)
    for plane, expected in zip(found.flatten(0, 1), maps.flatten(0, 1), strict=True):
        pillow = Image.fromarray(expected.numpy()).resize(size[::-1], Image.Resampling.BILINEAR)
        np.testing.assert_allclose(plane.numpy(), np.asarray(pillow), atol=1e-5)


class Brighter(nn.Module):
    """Logits of a pixel are its red and its blue."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image[:, [0, 2]].float() / 10


def predictor(size: Size, fit: Fit, labels: Labels = BINARY) -> Predictor:
    recipe = replace(default_recipe("unet"), size=size, fit=fit)
    placement = choose_placement(torch.device("cpu"), "fp32")
    return Predictor(
        Brighter().eval(), recipe=recipe, labels=labels, placement=placement, source=Path("x.pt"), size=size
    )


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(200, 100), (90, 301), (37, 64), (64, 37), (1, 1)], ids=str)
def test_predictions_land_where_they_belong(shape: Size, fit: Fit, flip: bool) -> None:
    height, width = shape
    truth = np.zeros(shape, np.uint8)
    truth[height // 3 :, width // 4 :] = 1
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 2] = np.where(truth == 0, 220, 20), np.where(truth == 1, 220, 20)
    other, options = Image.new("RGB", (50, 70), "red"), InferenceOptions(flip_tta=flip)
    for prediction in (
        predictor((48, 80), fit).predict(image, flip_tta=flip),
        predictor((48, 80), fit).predict_batch([other, Image.fromarray(image), other], options)[1],
    ):
        assert prediction.index.shape == shape
        assert prediction.probabilities.shape == (2, *shape)
        wrong = prediction.index != truth
        # A pixel of the network's is a few of the image's: only at the edge between the classes may they differ.
        near = max(2, -(-height // 48), -(-width // 48))
        rows, columns = np.abs(np.arange(height) - height // 3 + 0.5), np.abs(np.arange(width) - width // 4 + 0.5)
        edge = (rows[:, None] < near) | (columns[None] < near)
        assert not (wrong & ~edge).any()


def test_masks_have_the_sources_values_or_colours() -> None:
    image = np.zeros((40, 50, 3), np.uint8)
    image[:, :20, 0] = image[:, 20:, 2] = 200
    found = predictor((40, 50), "stretch").predict(image)
    assert set(np.unique(found.index)) == {0, 1}
    assert (found.mask == np.where(found.index == 1, 255, 0)).all()
    assert found.mask.dtype == np.uint8
    colours = Labels(
        classes=(
            LabelClass(name="a", color="#010203", source_colors=("#0a0b0c",)),
            LabelClass(name="b", color="#040506", source_colors=("#ff0001", "#ff0002")),
        )
    )
    found = predictor((40, 50), "stretch", colours).predict(image)
    assert found.mask.shape == (40, 50, 3)
    assert found.mask[0, 0].tolist() == [10, 11, 12]
    assert found.mask[0, -1].tolist() == [255, 0, 1]
