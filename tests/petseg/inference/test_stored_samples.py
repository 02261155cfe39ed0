"""Samples read for drawings are what was packed, from every storage and image format."""

import io
from pathlib import Path

import numpy as np
import pytest
from labelled_sets import build_labelled, draw_scene, many_labels
from PIL import Image

from petseg.inference.stored_samples import read_image, read_mask, read_rgb
from shards import SampleError, ShardSet, SplitReader
from shards.format.readers.webdataset_pipeline import decoded_sample
from shards.preview.small_sample import small_sample

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


def png(values: np.ndarray, *, mode: str = "L") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def npz(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, values)
    return buffer.getvalue()


def npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


ZEROS = np.zeros((40, 56), np.uint8)
FORGED = {
    "another size": ("jpeg", "mask", png(ZEROS[:1]), "1 x 56 pixels, the table says 40 x 56"),
    "another size of an image": ("jpeg", "image", png(ZEROS[:, :1]), "40 x 1 pixels, the table says 40 x 56"),
    "no class": ("jpeg", "mask", png(ZEROS + 200), "index 200 is no class of the set"),
    "a palette": ("jpeg", "mask", png(ZEROS, mode="P"), "mode P, where L is expected"),
    "no class in raw": ("raw", "mask", npy(ZEROS + 21), "index 21 is no class of the set"),
    "another type": ("raw", "mask", npy(ZEROS.astype(float)), "it is no .npy file of uint8"),
    "another shape": ("raw", "image", npy(np.zeros((3, 40, 56), np.uint8)), "it is no .npy file of uint8"),
    "another order": ("raw", "mask", npy(np.asfortranarray(ZEROS)), "it is no .npy file of uint8"),
    "an archive": ("raw", "mask", npz(ZEROS), "it is no .npy file of uint8"),
    "a damaged header": ("raw", "mask", npy(ZEROS).replace(b"'descr'", b"(((((((", 1), "it is no .npy file of uint8"),
}


@pytest.mark.parametrize(("storage", "role", "data", "message"), FORGED.values(), ids=FORGED)
def test_what_is_not_of_the_set_is_neither_scored_nor_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str, role: str, data: bytes, message: str
) -> None:
    """With checksums that are right: other sizes would be broadcast, other values ignored."""
    split = ShardSet.open(build_labelled(tmp_path, LABELS, samples=6, storage=storage, size=(40, 56))).split("train")
    original = type(split).read

    def read(self: SplitReader, index: int, what: str) -> bytes:
        return data if what == role else original(self, index, what)

    monkeypatch.setattr(type(split), "read", read)
    reads = [read_mask] if role == "mask" else [read_image, read_rgb]
    for look in (*reads, lambda split, index: small_sample(split, index, (20, 20), enlarge=False)):
        with pytest.raises(SampleError, match=message if look in reads else rf"scene_.*{role}"):
            look(split, 0)


def test_no_damaged_header_makes_the_webdataset_pipeline_raise_another_error() -> None:
    harmed = npy(ZEROS).replace(b"'descr'", b"(((((((", 1)
    for data in (harmed, npy(ZEROS.astype(float))):
        with pytest.raises(SampleError, match=r"x in a\.tar cannot be decoded"):
            decoded_sample(("x", "a.tar", npy(ZEROS[..., None].repeat(3, 2)), data, b"{}"))
