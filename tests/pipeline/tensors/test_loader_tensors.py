"""The loader's tensors against an independent decode by Pillow and NumPy, sample by sample.

Masks must be equal. Images may differ a little, for reasons that are known:

* Pillow rounds to whole levels between its two passes, torch rounds its weights to 16 bits, DALI works in floats: one
  level each where a JPEG's own decode is the same; the mean is well below half a level.
* All decoders use the same inverse transform (libjpeg's "islow") and interpolate chroma, but may be built from
  different versions: one level.
* DALI's graph repeats an image's edge pixels under its filter where the others leave out what lies outside: outputs at
  the very edge of an image that is shrunk differ more: by up to ``EDGE``.
* Colour is one more rounding, and stretches the differences by at most 1.2 squared.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import Augmentation, Loader
from pipeline.order.augmentation import colour_matrices, draw_parameters

MOST, MEAN = 3, 0.5  # levels of 255, for one image
EDGE = 12  # levels, at the outermost pixels, where DALI's graph shrinks a real image
EDGE_ORIGINAL = 24  # likewise, from its original resolution
EDGE_NOISE = 48  # likewise, of the test sets' noise
# DALI's graph is the same for ``source`` and ``jpeg``.
COMBINATIONS = [(storage, "torch") for storage in ("source", "jpeg", "raw")] + [("source", "dali"), ("raw", "dali")]
GEOMETRY = Augmentation(brightness=0, contrast=0, saturation=0)


def load(folder: Path, **options: Any) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """All valid samples of an epoch: (index, expected HWC, mask)."""
    samples = []
    with Loader(folder, batch_size=7, device="cpu", **options) as loader:
        for batch in loader:
            image, mask = batch.image.permute(0, 2, 3, 1).numpy(), batch.mask.numpy()
            samples += [
                (int(index), image[place], mask[place]) for place, index in enumerate(batch.index) if batch.valid[place]
            ]
    return samples


def assert_images_agree(got: np.ndarray, wanted: np.ndarray, name: object, *, edge: float = MOST) -> None:
    difference = np.abs(got.astype(int) - wanted.astype(int))
    assert difference[1:-1, 1:-1].max() <= MOST, (name, difference.max(), difference.mean())
    assert difference.max() <= edge, (name, difference.max(), difference.mean())
    assert difference.mean() <= MEAN, (name, difference.max(), difference.mean())


@pytest.mark.parametrize(("storage", "engine"), COMBINATIONS)
@pytest.mark.parametrize("size", [64, 96, 33])
def test_whole_images(sets: dict[str, Path], reference: Any, storage: str, engine: str, size: int) -> None:
    samples = load(sets[storage], size=size, engine=engine)
    assert sorted(index for index, _, _ in samples) == list(range(40))
    for index, image, mask in samples:
        expected, classes = reference.expected(*reference.stored(sets[storage], storage, index), size)
        assert_images_agree(image, expected, index, edge=EDGE_NOISE if engine == "dali" else MOST)
        assert np.array_equal(mask, classes[None] == np.arange(3)[:, None, None]), index


@pytest.mark.parametrize(("storage", "engine"), COMBINATIONS)
@pytest.mark.parametrize("size", [64, 150])
def test_crops_and_flips(sets: dict[str, Path], reference: Any, storage: str, engine: str, size: int) -> None:
    samples = load(sets[storage], size=size, engine=engine, augment=GEOMETRY, seed=9, mask="index")
    for index, image, mask in samples:
        pixels, values = reference.stored(sets[storage], storage, index)
        drawn = draw_parameters(
            GEOMETRY,
            seed=9,
            epoch=0,
            indices=np.array([index]),
            heights=np.array([pixels.shape[0]]),
            widths=np.array([pixels.shape[1]]),
            size=(size, size),
        )
        expected, classes = reference.expected(
            pixels, values, size, box=drawn.boxes[0].tolist(), flip=bool(drawn.flip[0])
        )
        assert_images_agree(image, expected, index, edge=EDGE_NOISE if engine == "dali" else MOST)
        assert np.array_equal(mask, classes), index


@pytest.mark.parametrize(("storage", "engine"), COMBINATIONS)
def test_colours(sets: dict[str, Path], reference: Any, storage: str, engine: str) -> None:
    strong = Augmentation(area=None, flip=0, brightness=0.5, contrast=0.5, saturation=0.8)
    for index, image, _ in load(sets[storage], size=64, engine=engine, augment=strong):
        pixels, values = reference.stored(sets[storage], storage, index)
        drawn = draw_parameters(
            strong,
            seed=0,
            epoch=0,
            indices=np.array([index]),
            heights=np.ones(1, int),
            widths=np.ones(1, int),
            size=(64, 64),
        )
        matrix, offset = (x[0].astype(float) for x in colour_matrices(drawn))
        expected, _ = reference.expected(pixels, values, 64)
        wanted = np.clip(np.rint(expected.astype(float) @ matrix.T + offset), 0, 255)
        stretch = max(1.0, np.abs(matrix).sum(axis=1).max())
        difference = np.abs(image.astype(float) - wanted)
        assert difference.max() <= 1 + MOST * stretch, index
        assert difference.mean() <= MEAN + MEAN * stretch, index


@pytest.mark.parametrize("engine", ["dali", "torch"])
def test_real_images(real_set: Path, reference: Any, engine: str, campaign: Callable[[int, int], int]) -> None:
    """Every image of the real set that Pillow opens, in every split; without --campaign, those of one split."""
    from shards.format.dataset import ShardSet

    splits = sorted(ShardSet.open(real_set).manifest.splits)
    for split in splits if campaign(0, 1) else splits[-1:]:
        for index, image, mask in load(real_set, size=128, engine=engine, split=split, shuffle=False):
            pixels, values = reference.stored(real_set, "source", index, split)
            expected, classes = reference.expected(pixels, values, 128)
            assert_images_agree(image, expected, (split, index), edge=EDGE_ORIGINAL if engine == "dali" else MOST)
            assert np.array_equal(mask.argmax(0), classes), (split, index)
            assert (mask.sum(0) == 1).all()


@pytest.fixture(scope="module", params=["jpeg", "raw"])
def small_real_set(
    request: pytest.FixtureRequest, real_pets: Path, tmp_path_factory: pytest.TempPathFactory, command: Any
) -> tuple[str, Path]:
    """The real images as they are stored small, 128 pixels, a tenth of them in ``val``."""
    out = tmp_path_factory.mktemp("small-real") / "shards"
    split = ["--split", "random", "--fractions", "0.8,0.1,0.1"]
    command("petseg-shard", "build", real_pets, out, "--storage", request.param, *split)
    return request.param, out


@pytest.mark.parametrize("engine", ["dali", "torch"])
def test_real_images_stored_small(small_real_set: tuple[str, Path], reference: Any, engine: str) -> None:
    """At the stored size and at one that is resized to."""
    storage, folder = small_real_set
    edge = EDGE if engine == "dali" else MOST
    for size in (128, 80):
        samples = load(folder, size=size, engine=engine, split="val", mask="index")
        assert len(samples) >= 10
        for index, image, mask in samples:
            expected, classes = reference.expected(*reference.stored(folder, storage, index, "val"), size)
            assert_images_agree(image, expected, (storage, size, index), edge=edge)
            assert np.array_equal(mask, classes), (storage, size, index)


def test_index_masks_are_the_one_hot_masks(sets: dict[str, Path]) -> None:
    for storage, folder in sets.items():
        index = load(folder, size=48, mask="index", augment="train")
        onehot = load(folder, size=48, mask="onehot", augment="train")
        for (a, image, classes), (b, same_image, planes) in zip(index, onehot, strict=True):
            assert a == b
            assert np.array_equal(image, same_image), storage
            assert np.array_equal(planes, classes[None] == np.arange(3)[:, None, None]), storage
