"""The synthetic dataset in other layouts: the same drawings, and masks that a build maps back to the same classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.audit.mask import audit_mask
from shards.errors import UsageError
from shards.format.builtin_labels import BINARY
from shards.format.label_files import find_labels
from shards.format.labels import IGNORE
from shards.sources import scan
from shards.sources.synthetic.breeds import BREEDS
from shards.sources.synthetic.generate import make_pets
from shards.sources.synthetic.layout_writers import made_labels, writer_for

COUNT = 6
# Of the trimaps of the first images and their breeds (in turn), the class of each pixel.
CASES = [
    ("folders", 3, "index"), ("folders", 2, "binary"), ("folders", 5, "rgb"), ("folders", 1, "index"),
    ("csv", 255, "index"), ("csv", 255, "rgb"), ("voc", 21, "index"), ("voc", 3, "index"), ("cityscapes", 19, "index"),
    ("cityscapes", 4, "index"), ("ade20k", 150, "index"), ("ade20k", 9, "index"),
]  # fmt: skip


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory, drawn_once: None) -> Path:
    folder = tmp_path_factory.mktemp("reference") / "pets"
    make_pets(folder, count=COUNT, seed=2)
    return folder


def expected_indices(trimap: np.ndarray, number: int, classes: int, masks: str) -> np.ndarray:
    breed = BREEDS[number]
    if classes == 1:
        animal = 0
    elif classes == 3:
        animal = 1 if breed.is_cat else 2
    else:
        animal = 1 + number % (classes - 1)
    border = animal if masks == "binary" else IGNORE
    return np.select([trimap == 1, trimap == 2], [animal, 0], border).astype(np.uint8)


@pytest.mark.parametrize(("layout", "classes", "masks"), CASES)
def test_masks_mean_the_same_in_every_layout(pets: Path, tmp_path: Path, layout: str, classes: int, masks: str) -> None:
    folder = tmp_path / layout
    make_pets(folder, count=COUNT, seed=2, layout=layout, classes=classes, masks=masks)
    source = scan(folder)
    assert source.layout == layout
    if source.labels is None:
        labels = find_labels(str(folder / "labels.toml"))
        assert len(labels) == classes
        assert (labels == BINARY) == (masks == "binary")
    else:
        labels = source.labels
        assert not (folder / "labels.toml").exists()
    names = sorted(f"{breed.name}_1" for breed in BREEDS[:COUNT])
    for number, breed in enumerate(BREEDS[:COUNT]):
        name = f"{breed.name}_1"
        pair = source.pairs[names.index(name)]  # ADE's names are numbers in another order
        if layout == "ade20k":
            pair = next(pair for pair in source.pairs if int(pair.name[-8:]) == number + 1)
        trimap = np.asarray(Image.open(pets / "annotations" / "trimaps" / f"{name}.png"))
        found = audit_mask(Path(pair.mask).read_bytes(), labels=labels).indices
        assert np.array_equal(found, expected_indices(trimap, number, classes, masks)), name
        reference = (pets / "images" / f"{name}.jpg").read_bytes()
        if layout != "cityscapes":
            assert Path(pair.image).read_bytes() == reference


@pytest.mark.parametrize(
    ("layout", "classes", "masks", "message"),
    [
        ("coco", None, "index", "layout='coco': choose from pets, folders"),
        ("pets", 4, "index", "classes=4: pets has 3"),
        ("voc", 256, "index", "classes=256: voc has 1 to 255"),
        ("cityscapes", 20, "index", "classes=20: cityscapes has 1 to 19"),
        ("ade20k", 0, "index", "classes=0: ade20k has 1 to 150"),
        ("csv", 3, "binary", "classes=3: csv with binary masks has 2"),
        ("voc", None, "rgb", "masks='rgb' needs layout='folders' or csv"),
        ("folders", None, "jpeg", "masks='jpeg': choose from index, binary, rgb"),
    ],
)
def test_what_a_layout_does_not_have(layout: str, classes: int | None, masks: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        writer_for(layout, classes=classes, masks=masks)


@pytest.mark.parametrize("rgb", [False, True])
@pytest.mark.parametrize("classes", [1, 2, 3, 4, 15, 16, 150, 255])
def test_labels_of_any_number_of_classes(classes: int, rgb: bool) -> None:
    labels = made_labels(classes, rgb=rgb)
    labels.check()
    assert (len(labels), labels.rgb) == (classes, rgb)
