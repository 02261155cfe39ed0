"""Lists and names as people have them: encodings, Unicode forms, folders, endings, case; and what is nearest."""

from __future__ import annotations

import contextlib
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shard_sources import Maker

from shards.errors import SourceError, UsageError
from shards.format.label_files import find_labels
from shards.sources import Source, scan
from shards.sources.pairs.spelling import NameIndex, NearNames, variants
from shards.store.text_files import TextError, decode_text, split_lines

Put = Callable[..., Path]
NFC, NFD = "Kätzchen_é", unicodedata.normalize("NFD", "Kätzchen_é")
TOML = '[[class]]\nname = "ä"\nvalue = 1\n'

# One dataset of the names a, B and Kätzchen_é in each layout that reads lists; %s is the list of train.
LAYOUTS: dict[str, tuple[str, str, str]] = {
    "folders": ("images/{}.jpg", "masks/{}.png", "train.txt"),
    "voc": ("JPEGImages/{}.jpg", "SegmentationClass/{}.png", "ImageSets/Segmentation/train.txt"),
    "pets": ("images/{}.jpg", "annotations/trimaps/{}.png", "annotations/trainval.txt"),
}


def dataset(put: Put, layout: str, content: bytes, names: tuple[str, ...] = ("a", "B", NFC), mask: str = "") -> Path:
    image, own_mask, text = LAYOUTS[layout]
    folder = put(*(form.format(name) for name in names for form in (image, mask or own_mask)), f"{text}=x")
    (folder / text).write_bytes(content)
    return folder


def listed(source: Source) -> set[str]:
    return set().union(*source.lists.values())


def warnings(source: Source) -> dict[str, str]:
    return {finding.name: finding.reason for finding in source.findings if finding.action == "warning"}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(f"a\nB\n{NFC}\n".encode(encoding), id=encoding)
        for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32")
    ]
    + [
        pytest.param("\ufeffa\nB\n\ufeff".encode() + NFC.encode(), id="a mark in the middle"),
        pytest.param(b"\xfe\xff" + f"a\nB\n{NFC}".encode("utf-16-be"), id="big-endian"),
        pytest.param(f"a \nB\t\n {NFC}\n".encode(), id="spaces"),
        pytest.param(f"a\r\nB\r\n{NFC}\r\n".encode(), id="CR LF"),
        pytest.param(f"a\rB\r{NFC}\r".encode(), id="CR"),
        pytest.param(f"a.jpg\nB.PNG\n{NFC}.jfif\n".encode(), id="endings"),
        pytest.param(f"./a\n{{0}}/B\n{{0}}/{NFC}.jpg\n".encode(), id="folders"),
        pytest.param(f"{{0}}\\a.jpg\n.\\{{0}}\\B.jpg\n{{0}}\\{NFC}\n".encode(), id="backslashes"),
        pytest.param(f'"a"\n"B.jpg"\n\'{NFC}\'\n'.encode(), id="quotes"),
        pytest.param(f"a\nB\n{NFD}\n".encode(), id="NFD"),
    ],
)
def test_a_list_names_all_images(put: Put, layout: str, content: bytes) -> None:
    folder = LAYOUTS[layout][0].split("/")[0].encode()
    found = scan(dataset(put, layout, content.replace(b"{0}", folder)))
    assert listed(found) == {"a", "B", NFC}
    assert len(found.pairs) == 3
    assert not found.findings


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("line", "name"), [("A", "a"), ("b.JPG", "B"), ("kätzchen_É", NFC), (NFD.upper(), NFC)])
def test_what_differs_in_case_is_matched_and_said(put: Put, layout: str, line: str, name: str) -> None:
    found = scan(dataset(put, layout, line.encode()))
    assert listed(found) == {name}
    assert warnings(found) == {name: "name-differs"}
    detail = next(finding.detail for finding in found.findings if finding.action == "warning")
    assert detail.startswith("line 1 of train")
    assert detail.endswith("differs in case or spaces only")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_western_encodings_are_matched_and_said(put: Put, layout: str, encoding: str) -> None:
    found = scan(dataset(put, layout, f"a\nB\n{NFC}\n".encode(encoding)))
    assert listed(found) == {"a", "B", NFC}
    assert warnings(found) == {NFC: "name-differs"}
    detail = next(finding.detail for finding in found.findings)
    assert "line 3" in detail
    assert detail.endswith("is not UTF-8; read as Windows-1252")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\nB\n".encode("utf-16-le"), r"train.*txt:1: not plain text, but UTF-16 without a byte-order mark; save it"),
        ("a\nB\n".encode("utf-16") + b"\x00", r"train.*txt:3: damaged UTF-16; save it as UTF-8"),
        (b"a\nB\n\x00\x01", r"train.*txt:3: not plain text; save it as UTF-8"),
    ],
)
def test_what_is_no_text_is_refused_with_its_line(put: Put, layout: str, content: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        scan(dataset(put, layout, content))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("image", "mask"), [(NFC, NFD), (NFD, NFC), (NFD, NFD), ("A b", "a B"), ("x_1", "X_1")])
def test_image_and_mask_in_two_spellings_are_a_pair(put: Put, layout: str, image: str, mask: str) -> None:
    forms = LAYOUTS[layout]
    folder = put(forms[0].format(image), forms[1].format(mask), f"{forms[2]}={image}")
    found = scan(folder)
    name = unicodedata.normalize("NFC", image)
    assert [pair.name for pair in found.pairs] == [name]
    assert (Path(found.pairs[0].image).stem, Path(found.pairs[0].mask).stem) == (image, mask)
    assert warnings(found) == ({} if NFD in (image, mask) else {name: "name-differs"})


@pytest.mark.parametrize("names", [("A", "a"), ("Cat_1", "cat_1"), ("x-Y", "X-y")])
def test_two_names_that_differ_in_case_only(put: Put, names: tuple[str, str]) -> None:
    files = [form.format(name) for name in names for form in LAYOUTS["folders"][:2]]
    found = scan(put(*files, f"train.txt={names[0]}\n", f"test.txt={names[1]}\n"))
    assert {Path(pair.image).stem: Path(pair.mask).stem for pair in found.pairs} == {name: name for name in names}
    assert found.lists == {"train": frozenset({names[0]}), "test": frozenset({names[1]})}
    assert warnings(found) == dict.fromkeys(names, "name-case-only")


def test_a_third_spelling_of_two_names_is_reported_with_both(put: Put) -> None:
    files = [form.format(name) for name in ("cat", "CAT", "dog") for form in LAYOUTS["folders"][:2]]
    found = scan(put(*files, "train.txt=Cat\ndog"))
    assert found.lists == {"train": frozenset({"dog"})}
    missing = next(finding for finding in found.findings if finding.reason == "listed-but-missing")
    assert missing.detail == "line 1 of train.txt; it may be any of CAT, cat"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("line", ["cat_10l", "cat-101", "ca_101"])
def test_the_nearest_names_are_reported(put: Put, layout: str, line: str) -> None:
    found = scan(dataset(put, layout, f"cat_102\n{line}\n".encode(), names=("cat_101", "cat_102", "dog_7")))
    missing = next(finding for finding in found.findings if finding.name == line)
    assert missing.reason == "listed-but-missing"
    assert missing.detail.startswith("line 2 of train")
    assert "; nearest: " in missing.detail
    assert "cat_101" in missing.detail
    assert "dog" not in missing.detail


def test_the_nearest_mask_is_reported(put: Put) -> None:
    found = scan(put("images/a.jpg", "masks/a.png", "images/horse_12.jpg", "masks/horse_012.png", "images/q.jpg"))
    details = {(finding.name, finding.reason): finding.detail for finding in found.findings}
    assert details["horse_12", "image-without-mask"] == "there is no mask of this name; nearest: horse_012"
    assert details["horse_012", "mask-without-image"] == "there is no image of this name; nearest: horse_12"
    assert details["q", "image-without-mask"] == ""


def test_the_nearest_of_very_many_take_no_time() -> None:
    index = NameIndex({f"image_{number:06}": f"image_{number:06}" for number in range(200_000)})
    before = time.process_time()
    hints = [index.hint(f"imagee_{number:06}") for number in range(0, 200_000, 100)]
    assert time.process_time() - before < 5
    assert "image_000000" in hints[0]
    assert hints[-1] == ""  # many are wrong in the same way


@pytest.mark.parametrize("names", [("trainval", "list"), ("test", "list"), ("trainval", "test")])
def test_class_and_species_come_from_the_list_that_has_them(maker: Maker, names: tuple[str, str]) -> None:
    """Names alone in one list, all columns in another."""
    maker.add("Abyssinian_1")
    maker.add("Bengal_2")
    maker.lists(test=["Bengal_2"], trainval=["Abyssinian_1"])
    bare, full = (maker.folder / "annotations" / f"{name}.txt" for name in names)
    bare.write_text("Abyssinian_1\nBengal_2\n")
    full.write_text("# a header\nAbyssinian_1 1 1 1\nBengal_2 6 1 5\n")
    found = {pair.name: pair.attributes for pair in scan(maker.folder).pairs}
    assert {name: (each["class_id"], each["species"]) for name, each in found.items()} == {
        "Abyssinian_1": (1, "cat"),
        "Bengal_2": (6, "cat"),
    }


@pytest.mark.parametrize("forms", [(NFC, NFD), (f"sub/{NFC}", f"sub/{NFD}"), ("Å", "A\u030a")])
def test_the_same_name_in_two_forms_in_one_folder(put: Put, forms: tuple[str, str]) -> None:
    files = [f"{side}/{name}.{ending}" for name in forms for side, ending in (("images", "jpg"), ("masks", "png"))]
    with pytest.raises(SourceError, match=r"the same name in two Unicode forms .*; remove or rename one of them"):
        scan(put(*files), layout="folders")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_labels_file_in_other_encodings(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "labels.toml"
    path.write_bytes(TOML.replace("\n", "\r\n").encode(encoding))
    assert find_labels(str(path)).names == ("ä",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TOML.encode("latin-1"), "labels.toml: line 2 is not UTF-8; save the file as UTF-8"),
        (TOML.encode("utf-16-le"), "labels.toml: line 1: not plain text, but UTF-16 without a byte-order mark"),
        (TOML.encode() + b"\0", "labels.toml: line 4: not plain text; save it as UTF-8"),
    ],
)
def test_a_labels_file_that_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "labels.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        find_labels(str(path))


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff\r\n"), max_size=30))
def test_any_text_in_any_encoding_comes_back(text: str) -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        for end in ("\n", "\r\n", "\r"):
            assert split_lines(decode_text(f"{text}{end}x".encode(encoding))) == [text, "x"]


@given(st.binary(max_size=60))
def test_any_bytes_are_text_or_refused_with_a_line(data: bytes) -> None:
    with contextlib.suppress(TextError):
        text = decode_text(data)
        if not data.startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"\0\0\xfe\xff")):
            assert text.encode("utf-8", "surrogateescape") == data


def test_variants_and_nearest() -> None:
    assert list(variants("./a/b.JPG c", (".jpg",)))[:4] == ["a/b.JPG c", "a/b.JPG", "a/b"]
    assert list(variants("x y", (), first_word=False)) == ["x y"]
    assert NearNames(["cat", "dog"]).find("catt") == ["cat"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("line", ["x" * 3_000_000, "a/" * 1_000_000 + "b"])
def test_a_line_without_bounds_is_refused(put: Put, layout: str, line: str) -> None:
    """Of a path with a million folders, a million shorter ones would be tried."""
    with pytest.raises(
        SourceError, match=r"\.txt:2: the line has \d+ characters; write the name or path of an image"
    ) as caught:
        scan(dataset(put, layout, f"q\n{line}\n".encode()))
    assert len(str(caught.value)) < 1000


def test_a_path_of_many_folders_takes_no_time(put: Put) -> None:
    began = time.process_time()
    with pytest.raises(SourceError, match="there is no image"):
        scan(dataset(put, "folders", ("a/" * 8000 + "\n").encode() * 20))
    assert time.process_time() - began < 10
