"""The page's bytes: what its data say, that a set's texts stay texts, and that it is the same every time."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from shard_sources import Maker, draw_image, draw_mask, encoded, options

from shards.build.build_set import build
from shards.errors import FormatError, SampleError, UsageError
from shards.format.builtin_labels import PETS
from shards.format.dataset import ShardSet
from shards.format.labels import LabelClass, Labels
from shards.preview import page
from shards.preview.page_samples import choose, read_findings

HOSTILE = ("</script><script>document.title='hacked'</script>", "<img src=x onerror=document.title='hacked'>",
           "\"'><b>bold</b>", "<!--<script>", "&lt;i&gt;", "{{ 7 * 7 }}")  # fmt: skip


def data_of(file: Path) -> dict[str, Any]:
    text = file.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    assert not set("<>&") & set(found[1])  # nothing in it can end the element, nor begin a comment
    document: dict[str, Any] = json.loads(found[1])
    return document


def mask_of(sample: list[Any]) -> np.ndarray:
    """The class indices that a sample's entry holds."""
    width, height = sample[4]
    lines = np.frombuffer(zlib.decompress(base64.b64decode(sample[9])), np.uint8).reshape(height, width + 1)
    assert not lines[:, 0].any()
    return lines[:, 1:]


@pytest.fixture
def hostile_set(maker: Maker, tmp_path: Path) -> Path:
    """Classes, names and attributes that would be markup; one sample is repaired, one rejected, both of such names."""
    labels = Labels(
        classes=tuple(
            LabelClass(name=name[:80], color=f"#{number + 1:02x}8040", values=(number + 1,))
            for number, name in enumerate(HOSTILE)
        ),
        ignore=(0,),
    )
    for number, name in enumerate(HOSTILE):
        maker.add(name.replace("/", "∕") + f"_{number}")
    maker.add("<b>grey<b>_1", image=encoded(draw_image(1), "BMP"))
    maker.add("<b>broken<b>_2", image=b"broken")
    build(maker.folder, tmp_path / "set", options(split="random", fractions=(1, 0, 0), labels=labels), workers=1)
    return tmp_path / "set"


@pytest.mark.parametrize("storage", ["source", "jpeg", "raw"])
def test_the_page_holds_every_sample(tiny_sets: dict[str, Path], storage: str, tmp_path: Path) -> None:
    opened = ShardSet.open(tiny_sets[storage])
    assert page.write_page(opened, tmp_path / "page.html") == 30
    data = data_of(tmp_path / "page.html")
    readers = [opened.split(name) for name in ("train", "val", "test")]
    places = [(reader, index) for reader in readers for index in range(len(reader))]
    for sample, (reader, index) in zip(data["samples"], places, strict=True):
        assert sample[0] == reader.key(index)
        assert data["splits"][sample[2]]["name"] == reader.name
        stored = reader.read(index, "mask")
        whole = np.load(io.BytesIO(stored)) if storage == "raw" else np.asarray(Image.open(io.BytesIO(stored)))
        counts = dict(zip(sample[7][::2], sample[7][1::2], strict=True))
        assert counts == {value: int((whole == value).sum()) for value in np.unique(whole).tolist()}
        assert np.array_equal(mask_of(sample), whole)  # no larger than a thumbnail
        thumbnail = Image.open(io.BytesIO(base64.b64decode(sample[8])))
        assert (thumbnail.format, list(thumbnail.size)) == ("WEBP", sample[4])
        attributes = dict(zip(data["attributes"], sample[5], strict=True))
        assert attributes == reader.attributes(index)
    totals = [split["pixels"] for split in data["splits"]]
    assert totals == [list(reader.entry.class_pixels) for reader in readers]


def test_the_same_set_gives_the_same_bytes(
    tiny_sets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = set()
    for cores in (1, 4):
        monkeypatch.setattr("shards.preview.page_samples.usable_cores", lambda cores=cores: cores)
        page.write_page(ShardSet.open(tiny_sets["source"]), tmp_path / "page.html", overwrite=True)
        digests.add(hashlib.sha256((tmp_path / "page.html").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_thumbnails_are_bounded(maker: Maker, tmp_path: Path) -> None:
    image, mask = draw_image(3, width=1500, height=700), draw_mask(3, width=1500, height=700)
    maker.add("large_1", image=encoded(image, "JPEG"), mask=encoded(mask, "PNG"))
    build(maker.folder, tmp_path / "set", options(split="random", fractions=(1, 0, 0)), workers=1)
    page.write_page(ShardSet.open(tmp_path / "set"), tmp_path / "page.html")
    (sample,) = data_of(tmp_path / "page.html")["samples"]
    assert (sample[3], sample[4]) == ([1500, 700], [512, 239])
    # The nearest pixel of the centre of each thumbnail's pixel, by another formula.
    rows, columns = ((np.arange(n) + 0.5) * side / n for n, side in ((239, 700), (512, 1500)))
    expected = PETS.index_table()[0][mask[np.ix_(rows.astype(int), columns.astype(int))]]
    assert np.array_equal(mask_of(sample), expected)


class Markup(HTMLParser):
    """Collects the elements of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)


def test_a_sets_texts_never_become_markup(hostile_set: Path, tiny_sets: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(hostile_set, tmp_path / "<img src=x>"))
    page.write_page(ShardSet.open(folder), tmp_path / "hostile.html")
    page.write_page(ShardSet.open(tiny_sets["source"]), tmp_path / "plain.html")
    tags = []
    for name in ("hostile.html", "plain.html"):
        markup = Markup()
        markup.feed((tmp_path / name).read_text(encoding="utf-8"))
        tags.append(markup.tags)
    assert tags[0] == tags[1]
    data = data_of(tmp_path / "hostile.html")
    assert [each["name"] for each in data["classes"]] == [name[:80] for name in HOSTILE]
    assert {sample[1] for sample in data["samples"]} >= {
        name.replace("/", "∕") + f"_{n}" for n, name in enumerate(HOSTILE)
    }
    assert [line[0] for line in data["rejected"]] == ["<b>broken<b>_2"]
    assert "<title>&lt;img src=x&gt;</title>" in (tmp_path / "hostile.html").read_text(encoding="utf-8")


def test_only_the_pages_own_script_may_run(tiny_sets: dict[str, Path], tmp_path: Path) -> None:
    page.write_page(ShardSet.open(tiny_sets["raw"]), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    policy = re.search(r'content="(default-src .*?)"', text)
    assert policy is not None
    for tag in ("script", "style"):
        (body,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src &#39;sha256-{digest}&#39;" in policy[1] or f"{tag}-src 'sha256-{digest}'" in policy[1]
    assert "default-src 'none'; img-src data:;" in policy[1]
    assert not re.search(r"https?://", text)


def test_findings_stand_beside_their_samples(hostile_set: Path, tmp_path: Path) -> None:
    page.write_page(ShardSet.open(hostile_set), tmp_path / "page.html")
    data = data_of(tmp_path / "page.html")
    found = {s[1]: [data["findings"][f][:2] for f in s[6]] for s in data["samples"] if s[6]}
    assert list(found) == ["<b>grey<b>_1"]
    assert found["<b>grey<b>_1"][0][1] == "image-transcoded"
    assert set(data["reasons"]) == {"image-transcoded", "image-unknown-format"}


def test_a_part_of_a_large_set_has_every_split_and_the_findings(maker: Maker, tmp_path: Path) -> None:
    for number in range(60):
        image = encoded(draw_image(number), "BMP" if number % 10 == 3 else "JPEG")
        maker.add(f"cat_{number}", image=image)
    build(maker.folder, tmp_path / "set", options(split="random", fractions=(0.5, 0.3, 0.2)), workers=1)
    opened = ShardSet.open(tmp_path / "set")
    readers = [opened.split(name) for name in ("train", "val", "test")]
    findings = read_findings(opened)
    repaired = {f.name for f in findings if f.action == "repaired"}
    assert len(repaired) == 6
    for count in (1, 5, 24, 40, 59, 60, 100):
        chosen = choose(readers, findings, count=count)
        assert len(chosen) == len({(r.name, i) for r, i in chosen}) == min(count, 60)
        names = [reader.key(index) for reader, index in chosen]
        assert len(repaired & set(names)) >= min(count // 4, 6)
        if 24 <= count <= 60:
            for reader in readers:
                share = sum(r is reader for r, _ in chosen)
                assert abs(share - count * len(reader) / 60) < 4


BAD = [
    ("page.htm", {}, "page.htm: the name must end in .html"),
    ("page.html", {"count": 0}, "a page holds 1 to 20,000 samples"),
    ("page.html", {"count": 20_001}, "a page holds 1 to 20,000 samples"),
    ("page.html", {"split": "dev"}, "no split 'dev'"),
    ("there.html", {}, "there.html exists"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), BAD)
def test_bad_arguments(
    tiny_sets: dict[str, Path], tmp_path: Path, name: str, arguments: dict[str, Any], message: str
) -> None:
    (tmp_path / "there.html").write_text("mine")
    with pytest.raises(UsageError, match=re.escape(message)):
        page.write_page(ShardSet.open(tiny_sets["raw"]), tmp_path / name, **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["there.html"]
    assert (tmp_path / "there.html").read_text() == "mine"


def test_one_split_and_progress(tiny_sets: dict[str, Path], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    opened = ShardSet.open(tiny_sets["raw"])
    page.write_page(opened, tmp_path / "page.html", split="val", progress=lambda *where: seen.append(where))
    assert seen == [(number, 4) for number in range(1, 5)]
    assert {sample[2] for sample in data_of(tmp_path / "page.html")["samples"]} == {1}


def test_damage_is_named_and_leaves_no_page(tiny_sets: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_sets["source"], tmp_path / "set"))
    reader = ShardSet.open(folder).split("test")
    row = reader.rows([2])[0]
    with reader.shard_path(int(row["shard"])).open("r+b") as handle:
        handle.seek(int(row["mask_offset"]) + 50)
        handle.write(b"damage")
    with pytest.raises(SampleError, match=rf"{reader.key(2)}\.mask\.png"):
        page.write_page(ShardSet.open(folder), tmp_path / "page.html")
    audit = folder / "audit.jsonl"
    audit.write_bytes(b"x" * audit.stat().st_size)
    if audit.stat().st_size:
        with pytest.raises(FormatError, match=r"audit.jsonl, line 1 is damaged"):
            page.write_page(ShardSet.open(folder), tmp_path / "page.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


def test_masks_are_the_image_data_of_a_png(tiny_sets: dict[str, Path], tmp_path: Path) -> None:
    """As page.js puts it together, with another program's checksums."""
    page.write_page(ShardSet.open(tiny_sets["jpeg"]), tmp_path / "page.html")
    sample = data_of(tmp_path / "page.html")["samples"][0]
    width, height = sample[4]
    parts = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)), (b"PLTE", bytes(range(12))),
             (b"IDAT", base64.b64decode(sample[9])), (b"IEND", b""))  # fmt: skip
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in parts:
        data += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), mask_of(sample))
