"""Images and masks in two folders: every arrangement of splits, nesting, suffixes and lists, and what is in the way."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shards.audit.file_kinds.signatures import IMAGE_ENDINGS
from shards.errors import SourceError, UsageError
from shards.sources import Source, scan
from shards.sources.folders import IMAGE_FOLDERS, MASK_FOLDERS
from shards.sources.pairs.listing import list_files

Put = Callable[..., Path]


def names(source: Source) -> list[str]:
    return [pair.name for pair in source.pairs]


def lists(source: Source) -> dict[str, list[str]]:
    return {split: sorted(chosen) for split, chosen in source.lists.items()}


def reasons(source: Source) -> dict[str, str]:
    return {finding.name: finding.reason for finding in source.findings}


def test_folders_nested_more_deeply_than_calls(put: Put, tmp_path: Path) -> None:
    found = put("images/a.jpg", "masks/a.png")
    here = os.open(found / "images", os.O_RDONLY)
    for _ in range(1500):  # a path of all of them at once would be too long for mkdir
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    assert names(scan(found)) == ["a"]
    remove_deep(found / "images" / "d")


@pytest.mark.parametrize("side", ["images", "masks"])
def test_links_that_lead_to_a_folder_in_a_billion_ways(side: str, put: Put, tmp_path: Path) -> None:
    found = put("images/a.jpg", "masks/a.png")
    here = found / side
    for number in range(30):
        below = tmp_path / f"folder-{number}"
        below.mkdir()
        for name in ("x", "y"):
            (here / name).symlink_to(below)
        here = below
    with pytest.raises(SourceError, match=r"links lead to .*/folder-\d+ in more than 100 ways, such as .*; remove"):
        scan(found)


@pytest.mark.parametrize("side", ["images", "masks"])
def test_links_to_what_is_around_the_source_are_not_followed(side: str, put: Put, tmp_path: Path) -> None:
    """One to ``/`` would list every disk; one to a folder beside the source is followed."""
    found = put("images/a.jpg", "masks/a.png", "images/sub/b.jpg", "masks/sub/b.png")
    for number, above in enumerate([Path("/"), tmp_path.parent, found, found / side]):
        (found / side / f"link{number}").symlink_to(above)
        (found / side / "sub" / f"link{number}").symlink_to(above)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "c.png").touch()
    (found / side / "beside").symlink_to(tmp_path / "elsewhere")
    listing = list_files(found / side, IMAGE_ENDINGS)
    stems = [Path(file.relative).with_suffix("").as_posix() for file in listing.files]
    assert stems == ["a", "beside/c", "sub/b"]
    assert not listing.unread


def test_a_folder_that_several_links_lead_to(put: Put, tmp_path: Path) -> None:
    found = put("images/a.jpg", "masks/a.png")
    for side, ending in (("images", "jpg"), ("masks", "png")):
        shared = tmp_path / f"shared-{side}"
        shared.mkdir()
        (shared / f"b.{ending}").touch()
        for number in range(100):
            (found / side / str(number)).symlink_to(shared)
    assert len(names(scan(found))) == 101


def remove_deep(folder: Path) -> None:
    """Remove it with an iteration; pytest's own way is a recursion."""
    deepest = folder
    while (deepest / "d").is_dir():
        deepest /= "d"
    while deepest != folder.parent:
        deepest.rmdir()
        deepest = deepest.parent


@pytest.mark.parametrize(
    ("images", "masks"),
    [*((name, "masks") for name in IMAGE_FOLDERS), *(("images", name) for name in MASK_FOLDERS), ("Images", "GT")],
)
def test_folders_by_any_usual_name(put: Put, images: str, masks: str) -> None:
    found = scan(put(f"{images}/b.jpg", f"{images}/a.jpg", f"{masks}/a.png", f"{masks}/b.png"))
    assert (found.layout, names(found), found.lists, found.labels) == ("folders", ["a", "b"], {}, None)
    assert found.reason == f"it has {images}/ and {masks}/"
    pair = found.pairs[0]
    assert (Path(pair.image).name, Path(pair.mask).name, pair.attributes) == ("a.jpg", "a.png", {})
    assert (pair.image_stamp.bytes, pair.mask_stamp.bytes) == (1, 1)


@pytest.mark.parametrize("image", ["jpg", "JPG", "jpeg", "png", "webp", "tif", "tiff", "bmp", "gif"])
@pytest.mark.parametrize("mask", ["png", "PNG", "bmp", "tif", "gif"])
def test_every_ending(put: Put, image: str, mask: str) -> None:
    assert names(scan(put(f"images/a.{image}", f"masks/a.{mask}"))) == ["a"]


@pytest.mark.parametrize("form", ["images/{split}/{name}.jpg masks/{split}/{name}.png",
                                  "{split}/images/{name}.jpg {split}/masks/{name}.png",
                                  "images/{split}/{name}.jpg masks/{name}.png",
                                  "images/{name}.jpg masks/{split}/{name}.png"])  # fmt: skip
@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("train", "val", "test"), ("training", "validation", "testing"), ("Train", "valid", "TEST"),
     ("train2017", "val2017", "test2017")],
)  # fmt: skip
def test_a_level_of_splits_above_or_below(put: Put, form: str, train: str, val: str, test: str) -> None:
    samples = [(train, "x"), (train, "deep/y"), (val, "z"), (test, "w")]
    paths = [path for split, name in samples for path in form.format(split=split, name=name).split(" ")]
    found = scan(put(*paths))
    assert names(found) == ["deep/y", "w", "x", "z"]
    assert lists(found) == {"train": ["deep/y", "x"], "val": ["z"], "test": ["w"]}
    assert not found.findings


def test_a_name_in_two_splits_has_its_split_before_it(put: Put) -> None:
    paths = [f"{side}/{split}/{name}" for side in ("images", "masks") for split, name in
             (("train", "1.png"), ("validation", "1.png"), ("validation", "2.png"))]  # fmt: skip
    found = scan(put(*paths))
    assert names(found) == ["2", "train/1", "val/1"]
    assert lists(found) == {"train": ["train/1"], "val": ["2", "val/1"]}
    assert {Path(pair.image).parent.name for pair in found.pairs if pair.name == "val/1"} == {"validation"}
    assert {Path(pair.mask).parent.name for pair in found.pairs if pair.name == "val/1"} == {"validation"}


def test_folders_that_are_not_all_splits_are_part_of_the_names(put: Put) -> None:
    found = scan(put("images/train/a.jpg", "images/car/b.jpg", "masks/train/a.png", "masks/car/b.png"))
    assert (names(found), found.lists) == (["car/b", "train/a"], {})


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (["x_leftImg8bit.png", "y_leftImg8bit.png"], ["x_mask.png", "y_mask.png"]),
        (["x.jpg", "y.jpg"], ["x_segmentation.png", "y_segmentation.png"]),
        (["x_rgb.jpg", "y_rgb.jpg"], ["x.png", "y.png"]),
        (["x.jpg", "y.jpg"], ["x.jpg.png", "y.jpg.png"]),
        (["x.jpg"], ["x_gt.png"]),
        (["n/x_a.jpg", "m/y_a.jpg"], ["n/x_b.png", "m/y_b.png"]),
    ],
)
def test_suffixes_that_pair_everything_are_found(put: Put, images: list[str], masks: list[str]) -> None:
    found = scan(put(*(f"images/{name}" for name in images), *(f"gt/{name}" for name in masks)))
    assert {name.rpartition("/")[2] for name in names(found)} == set("xy"[: len(images)])
    assert len(found.pairs) == len(images)
    assert not found.findings


def test_suffixes_that_fit_in_subfolders_that_do_not(put: Put) -> None:
    folder = put("2_RGB/a_RGB.tif", "2_RGB/b_RGB.tif", "5_Labels/a_label.tif", "5_Labels/b_label.tif")
    with pytest.raises(SourceError, match=r"their subfolders differ; put the images below images/ and"):
        scan(folder, image_suffix="_RGB.tif", mask_suffix="_label.tif")
    (folder / "2_RGB").rename(folder / "images")
    (folder / "5_Labels").rename(folder / "masks")
    assert names(scan(folder, image_suffix="_RGB.tif", mask_suffix="_label.tif")) == ["a", "b"]


@pytest.mark.parametrize("suffix", ["_mask", "_mask.png"])
def test_suffixes_that_are_given(put: Put, suffix: str) -> None:
    folder = put("images/a.jpg", "images/b.jpg", "masks/a_mask.png", "masks/a_colour.png", "masks/c_mask.bmp")
    found = scan(folder, mask_suffix=suffix)
    assert names(found) == ["a"]
    assert reasons(found) == {"b": "image-without-mask"} | ({} if "." in suffix else {"c": "mask-without-image"})
    assert found.ignored == 1 + ("." in suffix)
    with pytest.raises(SourceError, match=r"no image has a mask .*mask_suffix"):
        scan(folder)
    with pytest.raises(SourceError, match=r"holds no mask .* whose name ends with _gone"):
        scan(folder, mask_suffix="_gone")
    with pytest.raises(UsageError, match="for the layout folders"):
        scan(put("JPEGImages/a.jpg", "SegmentationClass/a.png", "ImageSets/Segmentation/val.txt=a"), image_suffix="x")


def test_an_ending_that_is_given_chooses_between_files_of_one_stem(put: Put) -> None:
    folder = put("images/a.jpg", "images/a.png", "images/b.jpg", "masks/a.png", "masks/b.png")
    found = scan(folder, image_suffix=".JPG")
    assert [Path(pair.image).name for pair in found.pairs] == ["a.jpg", "b.jpg"]
    assert found.ignored == 1


def test_lists_of_names_paths_and_pairs(put: Put) -> None:
    files = [f"{side}/{name}.{ending}" for side, ending in (("images", "jpg"), ("masks", "png"))
             for name in ("a", "b", "c", "d", "deep/e", "my cat")]  # fmt: skip
    folder = put(
        *files,
        "splits/train.txt=\ufeffa\r\n# comment\n\nimages/b.jpg\n./images/c.jpg masks/c.png\n",
        "splits/validation.txt=/images/deep/e.jpg\nmy cat\n",
        "splits/notes.txt=nothing",
    )
    found = scan(folder)
    assert lists(found) == {"train": ["a", "b", "c"], "val": ["deep/e", "my cat"]}
    assert names(found) == ["a", "b", "c", "d", "deep/e", "my cat"]
    assert not found.findings
    assert "train.txt, validation.txt" in found.reason


@pytest.mark.parametrize("place", ["", "splits/", "ImageSets/", "ImageSets/Segmentation/", "ImageSets/Main/deep/"])
def test_where_lists_may_be(put: Put, place: str) -> None:
    found = scan(put("images/a.jpg", "labels/a.png", "images/b.jpg", "labels/b.png", f"{place}trainval.txt=b"))
    assert lists(found) == {"trainval": ["b"]}


def test_lists_take_precedence_over_folders(put: Put) -> None:
    files = [f"{side}/train/{name}.png" for side in ("images", "masks") for name in "abc"]
    found = scan(put(*files, "val.txt=train/c"))
    assert lists(found) == {"train": ["a", "b"], "val": ["c"]}


def test_names_with_line_separators_that_are_no_line_breaks(put: Put) -> None:
    odd = ["a\u2028b", "c\x0bd", "e\x85f", "g\udcffh"]
    files = [f"{side}/{name}.png" for side in ("images", "masks") for name in odd]
    found = scan(put(*files, "train.txt=" + "\n".join(odd)))
    assert found.lists["train"] == frozenset(odd)


def test_missing_names_are_found_and_other_files_counted(put: Put) -> None:
    folder = put(
        "images/a.jpg", "images/lonely.jpg", "images/._a.jpg", "images/.hidden/b.jpg", "images/notes.md",
        "images/Thumbs.db", "masks/a.png", "masks/orphan.png", "masks/.DS_Store", "train.txt=a\ngone\ngone.jpg 1\n",
        "val.txt=a\ngone\n",
    )  # fmt: skip
    found = scan(folder)
    assert names(found) == ["a"]
    assert reasons(found) == {
        "lonely": "image-without-mask",
        "orphan": "mask-without-image",
        "gone": "listed-but-missing",
        "gone.jpg 1": "listed-but-missing",
    }
    assert (found.ignored, found.unread) == (4, ("images/notes.md",))
    assert next(f.detail for f in found.findings if f.name == "gone") == "line 2 of train.txt; nearest: lonely"


def test_links_are_followed_and_what_is_no_file_is_reported(put: Put, tmp_path: Path) -> None:
    folder = put("images/a.jpg", "masks/b.png", "masks/c.png", "masks/d.png", "masks/a.png")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "real.jpg").write_bytes(b"four")
    (folder / "images" / "b.jpg").symlink_to(tmp_path / "elsewhere" / "real.jpg")
    (folder / "images" / "c.jpg").symlink_to(tmp_path / "nowhere")
    (folder / "images" / "d.jpg").mkdir()
    os.mkfifo(folder / "masks" / "e.png")
    (folder / "images" / "e.jpg").write_bytes(b"x")
    (folder / "images" / "loop").symlink_to(folder / "images")
    found = scan(folder)
    assert names(found) == ["a", "b"]
    assert found.pairs[1].image_stamp.bytes == 4
    assert reasons(found) == {"c": "image-not-a-file", "d": "image-not-a-file", "e": "mask-not-a-file"}


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["images/a.jpg", "images/a.png", "masks/a.png"], r"holds both a\.jpg and a\.png; remove or rename"),
        (["images/a.jpg", "masks/a.png", "masks/a.bmp"], r"holds both a\.bmp and a\.png"),
        (["images/a.jpg", "img/a.jpg", "masks/a.png"], r"images/ and img/|img/ and images/"),
        (["images/a.jpg", "masks/a.png", "labels/a.png"], r"labels/ and masks/ may all hold"),
        (["images/train/a.jpg", "images/training/b.jpg", "masks/a.png", "masks/b.png"], r"train, training stand for"),
        (["train/images/a.jpg", "train/masks/a.png", "training/images/b.jpg"], r"two folders stand for the split"),
        (["images/a.jpg", "masks/a.png", "val/images/b.jpg", "val/masks/b.png"], r"both in itself .* and in folders"),
        (["images/a.jpg", "masks/a.jpg"], r"holds no mask .*JPEG changes the values"),
        (["images/a.jpg", "labels/train/a.txt", "labels/classes.txt"], r"holds no mask .*; text .* polygons \(YOLO\)"),
        (["images/a.jpg", "annotations/instances.json"], r"holds no mask .*; polygons \(COCO, labelme\) are not read"),
        (["images/a.jpg", "masks/a.npy", "masks/b.npy"], r"holds no mask .*; arrays are not read: save each mask as"),
        (["images/a.txt", "masks/a.png"], r"holds no image"),
        (["images/a.jpg", "masks/b.png"], r"1 image-without-mask, 1 mask-without-image"),
        (["images/a.jpg", "masks/a.png", "train.txt=a", "splits/train.txt=a"], r"both .* list the split train"),
        (["images/a.jpg", "masks/a.png", "train.txt=\n# none\n"], r"train\.txt names no image"),
        (["images/a.jpg", "masks/a.png", "train.txt=cats\ndogs"], r"train\.txt:1: there is no image 'cats'"),
        (["images/a.jpg", "masks/a.png", "train.txt=a\0"], r"not plain text"),
        (["images/train/a.jpg", "images/val/a.jpg", "masks/a.png"], r"a is in train and in val"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant(put: Put, paths: list[str], message: str) -> None:
    with pytest.raises(SourceError, match=message) as raised:
        scan(put(*paths), layout="folders")
    assert "\n" not in str(raised.value)


def test_a_second_folder_without_masks_is_no_question(put: Put) -> None:
    """YOLO's labels/ hold text files; the masks are elsewhere."""
    assert names(scan(put("images/a.jpg", "labels/a.txt", "masks/a.png"))) == ["a"]


def test_images_of_a_split_without_masks_are_reported(put: Put) -> None:
    found = scan(put("train/images/a.jpg", "train/masks/a.png", "test/images/b.jpg"))
    assert (names(found), reasons(found)) == (["a"], {"b": "image-without-mask"})


@pytest.mark.parametrize(
    ("paths", "name", "jpeg"),
    [
        (["images/a.png", "images/b.png", "masks/a.png", "masks/b.JPG"], "b", "b.JPG"),
        (["images/a.png", "images/b.png", "masks/a_m.png", "masks/b_m.jpg"], "b", "b_m.jpg"),
        (["images/train/a.png", "images/val/b.png", "masks/a.png", "masks/b.jpeg"], "b", "b.jpeg"),
    ],
)
def test_a_mask_that_is_a_jpeg_is_named(put: Put, paths: list[str], name: str, jpeg: str) -> None:
    found = scan(put(*paths, "masks/notes.txt"))
    assert reasons(found) == {name: "mask-lossy"}
    assert found.findings[0].detail == f"there is {jpeg}, a JPEG: masks must be lossless, save as PNG"
    assert (found.ignored, found.unread) == (0, ("masks/notes.txt",))


def test_a_jpeg_beside_a_mask_is_another_file(put: Put) -> None:
    found = scan(put("images/a.png", "images/b.png", "masks/a.png", "masks/b.png", "masks/b.jpg", "masks/c_x.jpg"))
    assert (names(found), found.findings, found.unread) == (["a", "b"], (), ("masks/b.jpg", "masks/c_x.jpg"))


@pytest.mark.parametrize("masks", ["annot", "_labels", "-Masks", " gt"])
def test_masks_beside_the_folder_of_their_split(put: Put, masks: str) -> None:
    """CamVid, Carvana: train/ and trainannot/; the images of test have no masks."""
    files = ["a.png", "b.png"]
    folder = put(*(f"Train/{name}" for name in files), *(f"Train{masks}/{name}" for name in files),
                 "val/c.jpg", f"val{masks}/c.png", "test/d.jpg", "trainer/e.jpg", "about.txt")  # fmt: skip
    found = scan(folder)
    assert (found.layout, names(found)) == ("folders", ["a", "b", "c"])
    assert lists(found) == {"train": ["a", "b"], "val": ["c"]}
    assert reasons(found) == {"d": "image-without-mask"}
    assert f"Train/ and Train{masks}/" in found.reason


def test_a_split_with_two_folders_of_masks_is_a_question(put: Put) -> None:
    with pytest.raises(SourceError, match="train_gt/ and train_masks/ may all hold what is looked for"):
        scan(put("train/a.png", "train_masks/a.png", "train_gt/a.png"))


@pytest.mark.parametrize(
    ("paths", "suffixes", "chosen", "splits"),
    [
        (["1.jpg", "1_mask.gif", "2.jpg", "2_mask.gif"], (None, "_mask.gif"), ["1", "2"], {}),
        (["n/1.png", "n/1_L.png", "m/1.png", "m/1_L.png"], (None, "_L"), ["m/1", "n/1"], {}),
        (["train/1_sat.jpg", "train/1_mask.png", "val/2_sat.jpg", "val/2_mask.png"], ("_sat", "_mask"), ["1", "2"],
         {"train": ["1"], "val": ["2"]}),
    ],
)  # fmt: skip
def test_images_and_masks_in_one_folder(
    put: Put, paths: list[str], suffixes: tuple[str | None, str], chosen: list[str], splits: dict[str, list[str]]
) -> None:
    folder = put(*paths, "notes.txt")
    found = scan(folder, image_suffix=suffixes[0], mask_suffix=suffixes[1])
    assert (found.layout, names(found), lists(found), found.findings) == ("folders", chosen, splits, ())
    assert [Path(pair.mask).stem for pair in found.pairs] == [Path(path).stem for path in sorted(paths) if
                                                              suffixes[1].partition(".")[0] in path]  # fmt: skip
    assert (found.ignored, found.unread) == (0, ("notes.txt",))
    with pytest.raises(SourceError, match=r"no layout that is known.*mask_suffix="):
        scan(folder)
    with pytest.raises(SourceError, match=r"holds no mask .* whose name ends with _gone\.png$"):
        scan(folder, mask_suffix="_gone.png")


def test_a_jpeg_among_the_masks_of_one_folder_is_named(put: Put) -> None:
    found = scan(put("1.jpg", "1_m.png", "2.jpg", "2_m.jpg", "3.jpg"), mask_suffix="_m")
    assert (names(found), reasons(found)) == (["1"], {"2": "mask-lossy", "3": "image-without-mask"})


@pytest.mark.parametrize(
    "line", ["/SegNet/CamVid/train/{0}.png /SegNet/CamVid/trainannot/{0}.png", "C:\\x\\train\\{0}.png"]
)
def test_lists_of_another_machine(put: Put, line: str) -> None:
    """Of paths that lead nowhere, leading folders are cut, but not all: another folder's image of this name is none."""
    files = ["train/a.png", "trainannot/a.png", "train/b.png", "trainannot/b.png"]
    found = scan(put(*files, "train.txt=" + "\n".join(line.format(name) for name in "ab")))
    assert (lists(found), found.findings) == ({"train": ["a", "b"]}, ())
    with pytest.raises(SourceError, match=r"train\.txt:1: there is no image '/other/seq/a\.png'"):
        scan(put(*files, "train.txt=/other/seq/a.png"))
