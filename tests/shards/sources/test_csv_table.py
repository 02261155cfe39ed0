"""Tables of pairs: columns, quoting, names, attributes, and the line of every mistake."""

from __future__ import annotations

import csv
import io
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.build.splits import official_split
from shards.errors import SourceError
from shards.sources import scan
from shards.sources.csv_table import CsvLayout

Put = Callable[..., Path]
FILES = ("p/a.jpg", "p/b.jpg", "p/c.jpg", "m/a.png", "m/b.png", "m/c.png")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_columns_become_pairs_splits_and_attributes(put: Put, delimiter: str, line_end: str) -> None:
    rows = [
        ["Image", "MASK", "Split", "Lens, used", "year", "id"],
        ["p/b.jpg", "m/b.png", "Validation", 'a "fish" eye', "2021", "007"],
        ["p/a.jpg", "m/a.png", "train", "grün", "-3", "8"],
        [],
        ["./p/c.jpg", "m/c.png", "", "x\ny", "0", "9"],
    ]
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator=line_end).writerows(rows)
    folder = put(*FILES)
    (folder / "t.csv").write_text("\ufeff" + text.getvalue(), encoding="utf-8", newline="")
    found = scan(folder)
    assert (found.layout, found.folder, found.labels) == ("csv", folder, None)
    assert found.reason == "t.csv has the columns image and mask"
    assert [pair.name for pair in found.pairs] == ["a", "b", "c"]
    assert found.lists == {"val": frozenset("b"), "train": frozenset("a")}
    assert [pair.attributes for pair in found.pairs] == [
        {"Lens, used": "grün", "year": -3, "id": "8"},
        {"Lens, used": 'a "fish" eye', "year": 2021, "id": "007"},
        {"Lens, used": "x\ny", "year": 0, "id": "9"},
    ]
    assert scan(folder / "t.csv") == found


def test_names(put: Put, tmp_path: Path) -> None:
    folder = put("p/1/a.jpg", "p/2/a.jpg", "p/2/b.jpg", "m/1.png", "m/2.png", "m/3.png")
    same = "image,mask\np/1/a.jpg,m/1.png\np/2/a.jpg,m/2.png\np/2/b.jpg,m/3.png\n"
    (folder / "t.csv").write_text(same)
    assert [pair.name for pair in scan(folder).pairs] == ["1/a", "2/a", "2/b"]
    (folder / "t.csv").write_text("image,mask,name\np/1/a.jpg,m/1.png,my a\np/2/a.jpg,m/2.png,a/b.c\n")
    assert [pair.name for pair in scan(folder).pairs] == ["a/b.c", "my a"]
    (tmp_path / "far.csv").write_text(f"image,mask\n{folder}/p/1/a.jpg,{folder}/m/1.png\n")
    assert [(pair.name, pair.image) for pair in scan(tmp_path / "far.csv").pairs] == [("a", str(folder / "p/1/a.jpg"))]


def test_missing_files_are_findings(put: Put) -> None:
    text = "image,mask\np/a.jpg,m/a.png\np/gone.jpg,m/b.png\np/b.jpg,m/gone.png\np/dir.jpg,m/c.png\n"
    folder = put(*FILES, f"t.csv={text}", "p/dir.jpg/x")
    found = scan(folder)
    assert [pair.name for pair in found.pairs] == ["a"]
    assert {(f.name, f.reason) for f in found.findings} == {
        ("gone", "listed-but-missing"), ("b", "image-without-mask"), ("dir", "image-not-a-file"),
    }  # fmt: skip
    assert next(f.detail for f in found.findings if f.name == "gone") == "line 3 of t.csv: there is no p/gone.jpg"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,mask\n", r"t\.csv names no image"),
        ("image;masks\np/a.jpg;m/a.png\n", r"t\.csv:1: the first line must name the columns"),
        ("image,mask,width\np/a.jpg,m/a.png,3\n", r"t\.csv:1: a column 'width' would hide"),
        ("image,mask,key\np/a.jpg,m/a.png,3\n", r"t\.csv:1: a column 'key' would hide"),
        ("image,mask,\np/a.jpg,m/a.png,3\n", r"t\.csv:1: column 3 has no name; .*index=False"),
        ("image,mask,x,x\np/a.jpg,m/a.png,3,4\n", r"t\.csv:1: two columns are named 'x'"),
        ("image,mask,Image\np/a.jpg,m/a.png,3\n", r"t\.csv:1: two columns are named 'image'"),
        ("image,mask\np/a.jpg\n", r"t\.csv:2: the row has 1 cell, but there are 2 columns"),
        ("image,mask\np/a.jpg,m/a.png\n\np/a.jpg,m/b.png\n", r"t\.csv:4: p/a\.jpg is in line 2, too"),
        ("image,mask\np/a.jpg,m/a.png\np/b.jpg,./m//a.png\n", r"t\.csv:3: \./m//a\.png is in line 2, too"),
        ("image,mask\np/a.jpg,p/a.jpg\n", r"t\.csv:2: p/a\.jpg is in line 2, too"),
        ("image,mask\np/a.jpg,m/a.JPG\n", r"t\.csv:2: the mask m/a\.JPG is a JPEG"),
        ("image,mask\n,m/a.png\n", r"t\.csv:2: the cell of the column image is empty"),
        ("image,mask,name\np/a.jpg,m/a.png,x\np/b.jpg,m/b.png,x\n", r"t\.csv:3: the name 'x' is in line 2, too"),
        ("image,mask,name\np/a.jpg,m/a.png, \n", r"t\.csv:2: the cell of the column name is empty"),
        ("image,mask\np/a.jpg,m/a.png\np/a.png,m/b.png\n", r"t\.csv:3: p/a\.png differs .* line 2 in its ending only"),
        ("image,mask,split\np/a.jpg,m/a.png,holdout\n", r"t\.csv:2: split 'holdout' is none of train, val, test"),
        ('image,mask\n"p/a.jpg,m/a.png\n', r"t\.csv:2: .*put quotes around"),
        ("image,mask\np/a.jpg,m/a.png\0\n", r"t\.csv:2: not plain text"),
        ("image,mask\np/x.jpg,m/x.png\n", r"no row has an image and a mask that exist; .*line 2"),
    ],
)  # fmt: skip
def test_mistakes_name_their_line(put: Put, text: str, message: str) -> None:
    folder = put(*FILES)
    (folder / "t.csv").write_text(text)
    with pytest.raises(SourceError, match=message) as raised:
        scan(folder / "t.csv")
    assert "\n" not in str(raised.value)


def test_a_folder_with_several_tables_or_none(put: Put) -> None:
    good = "image,mask\np/a.jpg,m/a.png\n"
    folder = put(*FILES, f"t.csv={good}", "other.csv=a,b\n1,2\n", ".hidden.csv=image,mask\n")
    assert len(scan(folder, layout="csv").pairs) == 1  # the other has no such columns
    (folder / "u.csv").write_text(good)
    with pytest.raises(SourceError, match=r"2 tables \(t\.csv, u\.csv\); give one of them"):
        scan(folder, layout="csv")
    assert len(scan(folder / "u.csv").pairs) == 1
    with pytest.raises(SourceError, match=r"no \.csv file whose first line"):
        scan(folder / "p", layout="csv")


@given(st.lists(st.tuples(st.text(min_size=1), st.integers(-(10**15), 10**15)), min_size=1, max_size=5))
def test_any_text_comes_back(tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, int]]) -> None:
    """Whatever Python's csv module writes, NUL excepted, is read back as it was."""
    cells = [(text.replace("\0", "0"), number) for text, number in cells]
    folder = tmp_path_factory.mktemp("csv")
    buffer = io.StringIO()
    table = csv.writer(buffer)
    table.writerow(["image", "mask", "note", "number"])
    for number, (text, value) in enumerate(cells):
        for ending in ("jpg", "png"):
            (folder / f"{number}.{ending}").write_bytes(b"x")
        table.writerow([f"{number}.jpg", f"{number}.png", text, value])
    (folder / "t.csv").write_bytes(buffer.getvalue().encode("utf-8", "surrogatepass"))
    found = {pair.name: pair.attributes for pair in CsvLayout().scan(folder).pairs}
    assert [found[str(number)]["number"] for number in range(len(cells))] == [value for _, value in cells]
    for number, (text, _) in enumerate(cells):
        note = found[str(number)]["note"]
        assert str(note) == text or any("\ud800" <= letter <= "\udfff" for letter in text)


def test_a_table_without_splits_is_named(put: Put) -> None:
    folder = put(*FILES, "t.csv=image,mask\np/a.jpg,m/a.png\n")
    with pytest.raises(
        SourceError, match=r"t\.csv names no splits; add a column split \(train, val, test\), or use split='random'"
    ):
        official_split(scan(folder), val_fraction=0.2, seed=0)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        (r"p\a.jpg", r"m\a.png"),
        (r".\p\a.jpg", "./m/a.png"),
        ("file:p/a.jpg", "file:m/a.png"),
        ("{folder}/p/a.jpg", "file://{folder}/m/a.png"),
        ("file://{folder}/p/%61.jpg", "m/a.png"),
        (" p/a.jpg", "m/a.png "),
        ('"p/a.jpg"', "m/a.png"),
    ],
)
def test_paths_of_other_systems(put: Put, image: str, mask: str) -> None:
    folder = put(*FILES)
    (folder / "t.csv").write_text(f"image,mask\n{image},{mask}\n".replace("{folder}", str(folder)))
    found = scan(folder)
    assert [(pair.name, Path(pair.image).name, Path(pair.mask).name) for pair in found.pairs] == [
        ("a", "a.jpg", "a.png")
    ]
    assert not found.findings


@pytest.mark.parametrize(
    ("image", "file", "said"),
    [
        ("p/A.JPG", "p/a.jpg", "differs in case or spaces only"),
        ("P/a.jpg", "p/a.jpg", "differs in case or spaces only"),
        ("p/u\u0308.jpg", "p/\u00fc.jpg", ""),
        ("p/\u00fc.jpg", "p/u\u0308.jpg", ""),
        (b"p/\xfc.jpg", "p/\u00fc.jpg", "is not UTF-8; read as Windows-1252"),
    ],
)
def test_paths_that_are_spelled_differently(put: Put, image: str | bytes, file: str, said: str) -> None:
    folder = put(file, "m/a.png")
    cell = image if isinstance(image, bytes) else image.encode()
    (folder / "t.csv").write_bytes(b"image,mask\n" + cell + b",m/a.png\n")
    found = scan(folder)
    assert [Path(pair.image).relative_to(folder).as_posix() for pair in found.pairs] == [file]
    assert [(finding.reason, finding.detail) for finding in found.findings] == (
        [("name-differs", f"line 2 of t.csv: the cell for {file} {said}")] if said else []
    )


@pytest.mark.parametrize(
    ("image", "hint"),
    [
        ("p/cat_10.jpg", "; nearest: cat_100.jpg, cat_200.jpg"),
        ("p/Cat_200.jpg", "; it may be any of CAT_200.jpg, cat_200.jpg"),
        (r"C:\data\cat_100.jpg", "; write paths relative to the table"),
        ("file:///C:/data/cat_100.jpg", "; write paths relative to the table"),
        ("file:p/%00cat_100.jpg", "; write paths relative to the table"),
        ("file:///p%2F%00", "; write paths relative to the table"),
        ("file://[::1/cat_100.jpg", "; write paths relative to the table"),
        ("file://[a/cat_100.jpg", "; write paths relative to the table"),  # no URL
        ("file://exa\u2100mple/cat_100.jpg", "; write paths relative to the table"),
        ("file:///p/cat%00.jpg", "; write paths relative to the table"),
        ("file:///" + "x" * 300, "; write paths relative to the table"),
        ("p/" + "x" * 300, ""),
        ("p/" + "../p/" * 1000 + "cat_100.jpg", ""),
    ],
)
def test_a_missing_file_has_a_hint(put: Put, image: str, hint: str) -> None:
    folder = put(*FILES, "p/cat_100.jpg", "p/cat_200.jpg", "p/CAT_200.jpg")
    (folder / "t.csv").write_text(f"image,mask\np/a.jpg,m/a.png\n{image},m/b.png\n")
    (finding,) = scan(folder).findings
    assert finding.detail == f"line 3 of t.csv: there is no {image}{hint}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "image,mask," + ",".join(str(n) for n in range(100_000)) + "\n",
            r"t\.csv:1: the table has 100002 columns; 1000 at most",
        ),
        ("image,mask\n" + "a," * 2_000_000 + "\n", r"t\.csv:2: the row has more than 1048576 characters"),
        ("image,mask\na,b\n" + '"a\n",' * 2_000_000, r"t\.csv:\d+: the row has more than 1048576 characters"),
        ("image,mask," + "x" * 8_000_000 + "\n", r"t\.csv:1: the row has more than 1048576 characters"),
        (
            'image,mask\n"' + "a\n" * 100_000,
            r"t\.csv:\d+: field larger than field limit .*; close quotes",
        ),
    ],
    ids=["columns", "cells", "cells of several lines", "name of a column", "open quote"],
)
def test_a_row_without_bounds_is_refused(put: Put, text: str, message: str) -> None:
    folder = put(*FILES)
    (folder / "t.csv").write_text(text)
    tracemalloc.start()
    with pytest.raises(SourceError, match=message):
        scan(folder / "t.csv")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 16 * len(text) + (32 << 20)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("first", ["", "sep=;"])
def test_tables_of_office_programs(put: Put, encoding: str, line_end: str, first: str) -> None:
    folder = put(*FILES)
    lines = [*([first] if first else []), "image;mask;breed", "p/a.jpg;m/a.png;Gr\u00fcn", "p/b.jpg;m/b.png;"]
    (folder / "t.csv").write_bytes(line_end.join(lines).encode(encoding))
    assert [pair.attributes for pair in scan(folder).pairs] == [{"breed": "Gr\u00fcn"}, {"breed": ""}]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b"image,mask,breed\np/a.jpg,m/a.png,Gr\xfcn\n",
            r"t\.csv:2: the cell of the column breed is not UTF-8; save .*Excel",
        ),
        (b"image,mask,Gr\xfcn\np/a.jpg,m/a.png,1\n", r"t\.csv:1: the name of column 3 is not UTF-8; save the table as"),
        (
            "image,mask\np/a.jpg,m/a.png\n".encode("utf-16-le"),
            r"t\.csv:1: not plain text, but UTF-16 without a byte-order",
        ),
        ("image,mask\n".encode("utf-16") + b"p", r"t\.csv:2: damaged UTF-16; save it as UTF-8"),
    ],
)
def test_other_encodings_are_refused_with_their_line(put: Put, data: bytes, message: str) -> None:
    folder = put(*FILES)
    (folder / "t.csv").write_bytes(data)
    with pytest.raises(SourceError, match=message):
        scan(folder / "t.csv")


@pytest.mark.parametrize("form", ["{}/p/a.jpg", "file://{}/p/a.jpg", "{}/m/../p/a.jpg"])
def test_a_file_is_listed_once_however_its_path_is_written(put: Put, form: str) -> None:
    folder = put(*FILES)
    (folder / "t.csv").write_text(f"image,mask,name\np/a.jpg,m/a.png,x\n{form.format(folder)},m/b.png,y\n")
    with pytest.raises(SourceError, match=r"t\.csv:3: .*p/a\.jpg is in line 2, too; list each file once"):
        scan(folder)
