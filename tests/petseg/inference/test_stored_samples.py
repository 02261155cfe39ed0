"""Samples read for drawings are what was packed, from every storage and image format."""

from pathlib import Path

import numpy as np
import pytest
from labelled_sets import build_labelled, draw_scene, many_labels
from PIL import Image

from petseg.inference.stored_samples import read_image, read_mask, read_rgb
from shards import SampleError, ShardSet

LABELS = many_labels(21)


@pytest.mark.parametrize("storage", ["source", "jpeg", "raw"])
def test_masks_are_class_indices_and_255(tmp_path: Path, storage: str) -> None:
    size = {} if storage == "source" else {"size": (40, 56), "fit": "contain"}
    data = ShardSet.open(build_labelled(tmp_path, LABELS, samples=10, storage=storage, **size))
    kinds = set()
    for name in data.manifest.splits:
        split = data.split(name)
        for index in range(len(split)):
            image, mask = read_image(split, index), read_mask(split, index)
            assert (image.dtype, image.shape) == (np.uint8, (*mask.shape, 3))
            number = int(split.key(index).removeprefix("scene_"))
            drawn, truth = draw_scene(LABELS, 60 + 7 * (number % 3), 90 - 11 * (number % 4), number)
            assert 255 in mask
            assert set(np.unique(mask)) <= {*range(21), 255}
            if storage != "source":
                assert mask.shape == (40, 56)
                continue
            np.testing.assert_array_equal(mask, truth)
            kinds.add(int(split.table[index]["image_format"]))
            if number % 4 == 0:  # kept as a PNG
                np.testing.assert_array_equal(image, drawn)
    if storage == "source":
        assert kinds == {0, 1}


def test_what_cannot_be_decoded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = ShardSet.open(build_labelled(tmp_path, LABELS, samples=6)).split("train")
    monkeypatch.setattr(type(split), "read", lambda self, index, role: b"\x89PNG\r\n\x1a\n damaged")
    with pytest.raises(SampleError, match=r"scene_.*mask\.png.*cannot be decoded"):
        read_mask(split, 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_more_pixels_than_pillow_opens_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Telephones make 108 megapixels and more; a set takes 268 by default."""
    split = ShardSet.open(build_labelled(tmp_path, LABELS, samples=6)).split("train")
    kinds = {"JPEG": 0, "PNG": 1}
    index = next(i for i in range(len(split)) if int(split.table[i]["image_format"]) == kinds[kind])
    expected = read_image(split, index), read_mask(split, index)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for read, pixels in zip((read_image, read_mask), expected, strict=True):
        np.testing.assert_array_equal(read(split, index), pixels)
    np.testing.assert_array_equal(np.asarray(read_rgb(split, index)), expected[0])
