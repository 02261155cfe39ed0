"""Which files count as images and masks: by usual ending, by their first bytes; what is not read is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from odd_images import encoded, picture
from shard_sources import options

from shards.audit.file_kinds.signatures import describe_start, file_kind
from shards.build.build_set import build
from shards.cli.build_summary import build_json, build_text
from shards.format.builtin_labels import BUILTIN
from shards.sources import Source, scan

Put = Callable[..., Path]
JPEG, PNG = encoded(picture()), encoded(picture()[..., 0] // 128, "PNG")
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
START = {
    "JPEG": JPEG, "PNG": PNG, "GIF": encoded(picture(), "GIF"), "BMP": encoded(picture(), "BMP"),
    "WebP": encoded(picture(), "WEBP"), "TIFF": encoded(picture(), "TIFF"), "PPM": encoded(picture(), "PPM"),
}  # fmt: skip
FORMS = {
    "folders": ("images/{}", "masks/{}", ()),
    "voc": ("JPEGImages/{}", "SegmentationClass/{}", ("ImageSets/Segmentation/train.txt=a\n",)),
    "pets": ("images/{}", "annotations/trimaps/{}", ()),
    "ade20k": ("images/training/ADE_{}", "annotations/training/ADE_{}", ()),
    "cityscapes": ("leftImg8bit/train/x/{}", "gtFine/train/x/{}", ()),
}


def names(source: Source) -> list[str]:
    return [Path(pair.image).name for pair in source.pairs]


def write(folder: Path, **files: bytes) -> None:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


@pytest.mark.parametrize("layout", ["folders", "voc", "pets"])
@pytest.mark.parametrize(
    "name", ["a.JPG", "a.jpe", "a.jfif", "a.JIF", "a", "a.png", "a.PNG", "a.webp", "a.Tiff", "a.ppm", "a.mpo", "a.dib"]
)
def test_images_of_any_usual_ending(put: Put, layout: str, name: str) -> None:
    image, mask, more = FORMS[layout]
    folder = put(mask.format("a.png"), *more)
    write(folder, **{image.format(name): {"a.webp": START["WebP"]}.get(name, JPEG)})
    assert names(scan(folder, layout=layout)) == [name]


@pytest.mark.parametrize("kind", START)
def test_an_image_without_ending(put: Put, kind: str) -> None:
    folder = put("masks/a.png", "masks/b.png", "images/b.png")
    write(folder, **{"images/a": START[kind]})
    assert file_kind(START[kind]) == kind
    assert names(scan(folder)) == ["a", "b.png"]


@pytest.mark.parametrize("mask", ["a.PNG", "a", "a.webp", "a.apng", "a.jpg"])
def test_masks_by_their_first_bytes(put: Put, mask: str) -> None:
    """``a.jpg`` is a PNG: what counts is the content."""
    folder = put("images/a.jpg", "images/b.jpg", "masks/b.png")
    write(folder, **{f"masks/{mask}": START["WebP"] if mask == "a.webp" else PNG})
    assert [Path(pair.mask).name for pair in scan(folder).pairs] == [mask, "b.png"]


@pytest.mark.parametrize("layout", FORMS)
def test_what_is_not_read_is_named_and_litter_is_counted(put: Put, layout: str) -> None:
    image, mask, more = FORMS[layout]
    ends = ("_leftImg8bit", "_gtFine_labelIds") if layout == "cityscapes" else ("", "")
    litter = (".DS_Store", "Thumbs.db", "._a.jpg", "desktop.ini")
    where = image.rpartition("/")[0]
    folder = put(
        image.format(f"a{ends[0]}.jpg" if layout != "cityscapes" else f"a{ends[0]}.png"),
        mask.format(f"a{ends[1]}.png"),
        *more,
        *(f"{where}/{name}" for name in litter),
        f"{where}/notes.txt",
        f"{where}/raw.cr2",
    )
    write(
        folder, **{f"{where}/b.heic": HEIC, f"{where}/video.mov": b"\0\0\0\x14ftypqt  ", f"{where}/c.jxl": b"\xff\x0a"}
    )
    found = scan(folder, layout=layout)
    assert len(found.pairs) == 1
    assert found.ignored == len(litter)
    assert set(found.unread) == {
        f"{where}/b.heic (HEIC)",
        f"{where}/c.jxl (JPEG XL)",
        f"{where}/notes.txt",
        f"{where}/raw.cr2",
        f"{where}/video.mov (video or HEIF)",
    }


@pytest.mark.parametrize("layout", ["folders", "voc", "pets", "ade20k"])
@pytest.mark.parametrize("ending", ["heic", "avif", "jp2"])
def test_a_mask_whose_image_is_not_read_says_so(put: Put, layout: str, ending: str) -> None:
    image, mask, more = FORMS[layout]
    folder = put(image.format("a.jpg"), mask.format("a.png"), mask.format("b.png"), *more)
    start = {"heic": HEIC, "avif": HEIC.replace(b"heic", b"avif"), "jp2": b"\0\0\0\x0cjP  \r\n\x87\n"}[ending]
    write(folder, **{image.format(f"b.{ending}"): start})
    (finding,) = scan(folder, layout=layout).findings
    kind = {"heic": "HEIC", "avif": "AVIF", "jp2": "JPEG 2000"}[ending]
    assert finding.reason == "mask-without-image"
    assert finding.detail.endswith(f"b.{ending}, which is not read ({kind}); convert it to JPEG or PNG")


@pytest.mark.parametrize("name", ["a.jpg.bak", "a", "a.jpeg_original", "a.jfif"])
def test_a_copy_beside_an_image_takes_nothing_from_it(put: Put, name: str) -> None:
    folder = put("masks/a.png")
    write(folder, **{"images/a.jpg": JPEG, f"images/{name}": JPEG})
    found = scan(folder)
    assert names(found) == ["a.jpg"]
    named = {line.split(" ")[0] for line in found.unread} | {f"images/{finding.name}" for finding in found.findings}
    assert named == {f"images/{name}"}


@pytest.mark.parametrize("name", ["BMW.md", "P5 notes", "raw.dng", "raw.nef"])
def test_weak_signatures_are_no_proof(put: Put, name: str) -> None:
    """Two letters, or a TIFF that a camera's raw file begins with, are an image only with their own endings."""
    folder = put("images/a.jpg", "masks/a.png")
    start = START["TIFF"] if name.startswith("raw") else {"B": b"BMW, Audi and others", "P": b"P5 is not here"}[name[0]]
    write(folder, **{f"images/{name}": start})
    found = scan(folder)
    assert names(found) == ["a.jpg"]
    assert len(found.unread) == 1


def test_folders_of_file_managers_hold_no_images(put: Put) -> None:
    found = scan(put("images/a.jpg", "masks/a.png", "images/@eaDir/a.jpg/thumb.jpg", "images/__MACOSX/b.jpg"))
    assert (names(found), found.unread, found.ignored, found.findings) == (["a.jpg"], (), 2, ())


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (HEIC, "it is HEIC; convert it to JPEG or PNG"),
        (b"<!DOCTYPE html>", "it is HTML or XML; convert it to JPEG or PNG"),
        (b"version https://git-lfs.github.com/spec/v1", "it is Git LFS pointer, not the file itself: run git lfs pull"),
        (b"nothing at all", "it begins with b'nothing '"),
    ],
)
def test_a_file_that_is_not_what_its_name_says(start: bytes, message: str) -> None:
    assert describe_start(start) == message


def test_the_report_names_what_was_not_read(put: Put, tmp_path: Path) -> None:
    folder = put(*(f"images/{number}.heic" for number in range(7)))
    write(folder, **{"images/a.jpe": JPEG, "masks/a.png": PNG})
    built = build(scan(folder), tmp_path / "set", options(split="random", labels=BUILTIN["binary"]), workers=1)
    assert build_json(built)["unread_files"] == [f"images/{number}.heic" for number in range(7)]
    line = next(line for line in build_text(built).splitlines() if "not read" in line)
    assert line.startswith("7 files are not read, being neither images nor masks: images/0.heic, images/1.heic, ")
    assert line.endswith("images/4.heic and 2 more")
