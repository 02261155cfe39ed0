"""The loader's tensors against an independent decode by Pillow and NumPy, sample by sample.

Masks must be equal. Pictures may differ a little, for reasons that are known:

* Pillow rounds to whole levels between its two passes, torch rounds its weights to 16 bits, DALI works in floats: one
  level each where a JPEG's own decode is the same; the mean is well below half a level.
* All decoders use the same inverse transform (libjpeg's "islow") and interpolate chroma, but may be built from
  different versions: one level.
* DALI's whole graph (GPU; on the CPU for ``raw``) repeats a picture's edge pixels under its filter where the others
  leave out what lies outside: outputs at the very edge of a picture that is shrunk differ more: by up to ``EDGE``.
* Colour is one more rounding, and stretches the differences by at most 1.2 squared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import Augmentation, Loader
from pipeline.order.augmentation import colour_matrices, draw_parameters

MOST, MEAN = 3, 0.5  # levels of 255, for one picture
EDGE = 12  # levels, at the outermost pixels, where DALI's graph shrinks a real picture
GEOMETRY = Augmentation(brightness=0, contrast=0, saturation=0)


def load(folder: Path, **options: Any) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """All valid samples of an epoch: (index, picture HWC, mask)."""
    samples = []
    with Loader(folder, batch_size=7, device="cpu", **options) as loader:
        for batch in loader:
            image, mask = batch.image.permute(0, 2, 3, 1).numpy(), batch.mask.numpy()
            samples += [
                (int(index), image[place], mask[place]) for place, index in enumerate(batch.index) if batch.valid[place]
            ]
    return samples


def assert_pictures_agree(got: np.ndarray, wanted: np.ndarray, name: object, *, most: float = MOST) -> None:
    difference = np.abs(got.astype(int) - wanted.astype(int))
    assert difference.max() <= most, (name, difference.max(), difference.mean())
    assert difference.mean() <= MEAN, (name, difference.max(), difference.mean())


@pytest.mark.parametrize("engine", ["dali", "torch"])
@pytest.mark.parametrize("storage", ["source", "jpeg", "raw"])
@pytest.mark.parametrize("size", [64, 96, 128, 33])
def test_whole_pictures(sets: dict[str, Path], reference: Any, storage: str, engine: str, size: int) -> None:
    samples = load(sets[storage], size=size, engine=engine)
    assert sorted(index for index, _, _ in samples) == list(range(40))
    for index, image, mask in samples:
        picture, classes = reference.expected(*reference.stored(sets[storage], storage, index), size)
        assert_pictures_agree(image, picture, index)
        assert np.array_equal(mask, classes[None] == np.arange(3)[:, None, None]), index


@pytest.mark.parametrize("engine", ["dali", "torch"])
@pytest.mark.parametrize("storage", ["source", "jpeg", "raw"])
@pytest.mark.parametrize("size", [64, 96, 150])
def test_crops_and_mirror_images(sets: dict[str, Path], reference: Any, storage: str, engine: str, size: int) -> None:
    samples = load(sets[storage], size=size, engine=engine, augment=GEOMETRY, seed=9, mask="index")
    for index, image, mask in samples:
        pixels, trimap = reference.stored(sets[storage], storage, index)
        drawn = draw_parameters(
            GEOMETRY,
            seed=9,
            epoch=0,
            indices=np.array([index]),
            heights=np.array([pixels.shape[0]]),
            widths=np.array([pixels.shape[1]]),
        )
        picture, classes = reference.expected(
            pixels, trimap, size, box=drawn.boxes[0].tolist(), flip=bool(drawn.flip[0])
        )
        assert_pictures_agree(image, picture, index)
        assert np.array_equal(mask, classes), index


@pytest.mark.parametrize("engine", ["dali", "torch"])
@pytest.mark.parametrize("storage", ["source", "jpeg", "raw"])
def test_colours(sets: dict[str, Path], reference: Any, storage: str, engine: str) -> None:
    strong = Augmentation(area=None, flip=0, brightness=0.5, contrast=0.5, saturation=0.8)
    for index, image, _ in load(sets[storage], size=64, engine=engine, augment=strong):
        pixels, trimap = reference.stored(sets[storage], storage, index)
        drawn = draw_parameters(
            strong, seed=0, epoch=0, indices=np.array([index]), heights=np.ones(1, int), widths=np.ones(1, int)
        )
        matrix, offset = (x[0].astype(float) for x in colour_matrices(drawn))
        picture, _ = reference.expected(pixels, trimap, 64)
        wanted = np.clip(np.rint(picture.astype(float) @ matrix.T + offset), 0, 255)
        stretch = max(1.0, np.abs(matrix).sum(axis=1).max())
        difference = np.abs(image.astype(float) - wanted)
        assert difference.max() <= 1 + MOST * stretch, index
        assert difference.mean() <= MEAN + MEAN * stretch, index


@pytest.mark.parametrize("engine", ["dali", "torch"])
def test_real_pictures(real_set: Path, reference: Any, engine: str) -> None:
    """Every picture of the real set that Pillow opens, in every split."""
    from shards.format.dataset import ShardSet

    for split in ShardSet.open(real_set).manifest.splits:
        for index, image, mask in load(real_set, size=128, engine=engine, split=split, shuffle=False):
            pixels, trimap = reference.stored(real_set, "source", index, split)
            picture, classes = reference.expected(pixels, trimap, 128)
            assert_pictures_agree(image, picture, (split, index))
            assert np.array_equal(mask.argmax(0), classes), (split, index)
            assert (mask.sum(0) == 1).all()


@pytest.fixture(scope="module", params=["jpeg", "raw"])
def small_real_set(
    request: pytest.FixtureRequest, real_pets: Path, tmp_path_factory: pytest.TempPathFactory, command: Any
) -> tuple[str, Path]:
    """The real pictures as they are stored small, 128 pixels, a tenth of them in ``val``."""
    out = tmp_path_factory.mktemp("small-real") / "shards"
    split = ["--split", "random", "--fractions", "0.8,0.1,0.1"]
    command("petseg-shard", "build", real_pets, out, "--storage", request.param, *split)
    return request.param, out


@pytest.mark.parametrize("engine", ["dali", "torch"])
def test_real_pictures_stored_small(small_real_set: tuple[str, Path], reference: Any, engine: str) -> None:
    """At the stored size and at one that is resized to."""
    storage, folder = small_real_set
    most = EDGE if (storage, engine) == ("raw", "dali") else MOST
    for size in (128, 80):
        samples = load(folder, size=size, engine=engine, split="val", mask="index")
        assert len(samples) >= 10
        for index, image, mask in samples:
            picture, classes = reference.expected(*reference.stored(folder, storage, index, "val"), size)
            assert_pictures_agree(image, picture, (storage, size, index), most=most)
            assert_pictures_agree(image[1:-1, 1:-1], picture[1:-1, 1:-1], (storage, size, index))
            assert np.array_equal(mask, classes), (storage, size, index)


def test_index_masks_are_the_one_hot_masks(sets: dict[str, Path]) -> None:
    for storage, folder in sets.items():
        index = load(folder, size=48, mask="index", augment="train")
        onehot = load(folder, size=48, mask="onehot", augment="train")
        for (a, picture, classes), (b, same_picture, planes) in zip(index, onehot, strict=True):
            assert a == b
            assert np.array_equal(picture, same_picture), storage
            assert np.array_equal(planes, classes[None] == np.arange(3)[:, None, None]), storage
