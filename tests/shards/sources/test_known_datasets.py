"""VOC, Cityscapes and ADE20K: their folders as their downloads have them, with all that lies beside."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.errors import SourceError
from shards.format.builtin_labels import ADE20K, CITYSCAPES, CITYSCAPES_TRAIN_IDS, VOC
from shards.sources import Source, scan

Put = Callable[..., Path]


def names(source: Source) -> list[str]:
    return [pair.name for pair in source.pairs]


def test_voc(put: Put) -> None:
    """Images of other tasks have no mask: they are counted, and no finding."""
    root = "VOCdevkit/VOC2012"
    years = ["2007_000032", "2007_000039", "2007_000063", "2008_000002"]
    folder = put(
        *(f"{root}/JPEGImages/{name}.jpg" for name in (*years, "2009_000001", "2010_000001")),
        *(f"{root}/SegmentationClass/{name}.png" for name in years[:3]),
        *(f"{root}/SegmentationObject/{name}.png" for name in years[:3]),
        f"{root}/ImageSets/Segmentation/train.txt=2007_000032\n",
        f"{root}/ImageSets/Segmentation/val.txt=2007_000039\n2008_000002\n2011_000001\n",
        f"{root}/ImageSets/Segmentation/trainval.txt=2007_000032\n2007_000039\n2008_000002\n",
        f"{root}/ImageSets/Main/train.txt=2009_000001\n",
    )
    for path in (folder, folder / "VOCdevkit", folder / root):
        found = scan(path)
        assert (found.layout, found.labels, found.folder) == ("voc", VOC, folder / root)
        assert names(found) == years[:3]
        assert {(f.name, f.reason) for f in found.findings} == {
            ("2008_000002", "image-without-mask"),
            ("2011_000001", "listed-but-missing"),
        }
        assert {split: sorted(chosen) for split, chosen in found.lists.items()} == {
            "train": years[:1], "val": [years[1], years[3]], "trainval": [years[0], years[1], years[3]],
        }  # fmt: skip
        assert found.ignored == 2


def test_the_classes_of_voc_are_those_of_voc_only(put: Put) -> None:
    """Somebody else's data in VOC's folders: its value 1 is hardly an aeroplane."""
    found = scan(put("JPEGImages/cat.jpg", "SegmentationClass/cat.png", "ImageSets/Segmentation/train.txt=cat"))
    assert (found.layout, found.labels) == ("voc", None)
    with pytest.raises(SourceError, match=r"several years: give one"):
        scan(put("VOC2007/JPEGImages/a.jpg", "VOC2007/SegmentationClass/a.png", "JPEGImages/a.jpg"))
    with pytest.raises(SourceError, match=r"looked for JPEGImages/ and SegmentationClass/"):
        scan(put("other/x") / "other", layout="voc")


def test_voc_without_lists_is_told_by_name(put: Put) -> None:
    folder = put("JPEGImages/a.jpg", "SegmentationClass/a.png")
    assert scan(folder, layout="voc").lists == {}
    assert scan(folder).layout == "folders"


def mask(path: Path, *values: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array([values], dtype=np.uint8)).save(path)


def cityscapes(put: Put, *, kind: str = "labelIds", test: tuple[int, ...] | None = (3, 1)) -> Path:
    folder = put("README", "leftImg8bit/train_extra/x/x_0_leftImg8bit.png")
    for split, city in (("train", "aachen"), ("train", "bonn"), ("val", "lindau"), ("test", "berlin")):
        put(f"leftImg8bit/{split}/{city}/{city}_000000_000019_leftImg8bit.png")
        stem = folder / f"gtFine/{split}/{city}/{city}_000000_000019_gtFine"
        if split != "test" or test is not None:
            mask(Path(f"{stem}_{kind}.png"), *(test if split == "test" and test else (7, 26)))
            put(f"{stem.relative_to(folder)}_color.png", f"{stem.relative_to(folder)}_polygons.json")
    return folder


@pytest.mark.parametrize(("kind", "labels"), [("labelIds", CITYSCAPES), ("labelTrainIds", CITYSCAPES_TRAIN_IDS)])
def test_cityscapes(put: Put, kind: str, labels: object) -> None:
    found = scan(cityscapes(put, kind=kind, test=(0, 7) if kind == "labelIds" else (255, 0)))
    assert (found.layout, found.labels) == ("cityscapes", labels)
    assert names(found) == [f"{city}_000000_000019" for city in ("aachen", "berlin", "bonn", "lindau")]
    assert found.pairs[0].attributes == {"city": "aachen"}
    assert found.reason == f"it has leftImg8bit/ and gtFine/*_gtFine_{kind}.png"
    assert {split: len(chosen) for split, chosen in found.lists.items()} == {"train": 2, "val": 1, "test": 1}
    assert found.ignored == 1 + 2 * 4  # train_extra; colours and polygons
    assert not found.findings


@pytest.mark.parametrize(("test", "why", "ignored"), [((3, 1), "dummies", 11), (None, "it has no masks", 8)])
def test_the_withheld_masks_of_cityscapes(put: Put, test: tuple[int, ...] | None, why: str, ignored: int) -> None:
    found = scan(cityscapes(put, test=test))
    assert set(found.lists) == {"train", "val"}
    assert "test/ is left out" in found.reason
    assert why in found.reason
    assert len(found.pairs) == 3
    assert not found.findings
    assert found.ignored == ignored


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n/x 1 def\n%%EOF\n"
BROKEN = b"P5 4 4 -1\n" + bytes(16), b"BM" + bytes(60), b"II*\0\x08\0\0\0\xff\xff" + bytes(90)


@pytest.mark.parametrize("content", [EPS, None, *BROKEN], ids=["EPS", "FIFO", "PGM", "BMP", "TIFF"])
def test_masks_of_a_test_split_are_opened_like_all_others(
    put: Put, content: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow would run Ghostscript for one, and wait for the writer of another; the audit says what is wrong."""
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_: pytest.fail("Ghostscript was run"))
    (path,) = cityscapes(put).glob("gtFine/test/*/*_labelIds.png")
    path.unlink()
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    found = scan(path.parents[3])
    assert len(found.lists.get("test", ())) == (content is not None)


def test_both_kinds_of_ids(put: Put) -> None:
    """Official ids are taken: what is predicted with them can be submitted."""
    folder = cityscapes(put)
    cityscapes(put, kind="labelTrainIds", test=None)
    assert scan(folder).labels == CITYSCAPES


def test_cityscapes_that_is_not_complete(put: Put) -> None:
    with pytest.raises(SourceError, match=r"no gtFine/SPLIT/CITY/\*_gtFine_labelIds\.png"):
        scan(put("leftImg8bit/train/a/a_leftImg8bit.png", "gtFine/train/a/a_gtFine_color.png"))


def test_cityscapes_without_images(put: Put) -> None:
    with pytest.raises(SourceError, match=r"no leftImg8bit/SPLIT/CITY"):
        scan(put("leftImg8bit/train/a/other.png", "gtFine/train/a/a_gtFine_labelIds.png"))


def test_ade20k(put: Put) -> None:
    root = "ADEChallengeData2016"
    stems = {"training": "ADE_train_00000001", "validation": "ADE_val_00000001"}
    folder = put(
        *(f"{root}/images/{part}/{stem}.jpg" for part, stem in stems.items()),
        *(f"{root}/annotations/{part}/{stem}.png" for part, stem in stems.items()),
        f"{root}/objectInfo150.txt",
        f"{root}/sceneCategories.txt=ADE_train_00000001 airport_terminal\nADE_val_00000001 abbey\n",
        f"{root}/images/training/._ADE_train_00000001.jpg",
    )
    for path in (folder, folder / root):
        found = scan(path)
        assert (found.layout, found.labels, found.ignored) == ("ade20k", ADE20K, 1)
        assert {pair.name: pair.attributes for pair in found.pairs} == {
            "ADE_train_00000001": {"scene": "airport_terminal"},
            "ADE_val_00000001": {"scene": "abbey"},
        }
        assert found.lists == {"train": frozenset([stems["training"]]), "val": frozenset([stems["validation"]])}


def test_the_classes_of_ade20k_need_its_names(put: Put) -> None:
    """The same folders with other names may hold anything; who says --layout ade20k knows."""
    folder = put(
        *(f"{side}/{part}/{part}.png" for side in ("images", "annotations") for part in ("training", "validation"))
    )
    assert (scan(folder).layout, scan(folder).labels) == ("folders", None)
    assert scan(folder).lists == scan(folder, layout="ade20k").lists
    assert scan(folder, layout="ade20k").labels == ADE20K
    with pytest.raises(SourceError, match="does not have the layout of ADE20K"):
        scan(folder / "images", layout="ade20k")


def test_masks_of_voc_that_are_jpegs_are_named(put: Put) -> None:
    images = [f"JPEGImages/{name}.jpg" for name in ("cat", "dog", "owl")]
    masks = ["SegmentationClass/cat.png", "SegmentationClass/dog.jpg"]
    found = scan(put(*images, *masks, "ImageSets/Segmentation/train.txt=cat"))
    assert found.layout == "voc"
    assert [(f.name, f.reason) for f in found.findings] == [("dog", "mask-lossy")]
    assert found.ignored == 1  # owl.jpg
