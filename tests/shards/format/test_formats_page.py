"""A reader and checker written from docs/formats.md alone: it imports nothing of the project to read a set."""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import unicodedata
import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shard_sources import Maker, draw_image, encoded, options

from shards.audit.findings import REASONS
from shards.build.build_set import build
from shards.format.builtin_labels import BUILTIN
from shards.format.dataset import ShardSet
from shards.format.label_files import parse_labels
from shards.format.layout import SAMPLE_DTYPE, SHARD_DTYPE

PAGE = Path(__file__).resolve().parents[3] / "docs" / "formats.md"
RECORD = struct.Struct("<IHHQQQIIIIIIIIQQ")
LENGTHS = ("image_length", "mask_length", "meta_length")
FIELDS = ("shard", "image_format", "reserved", "image_offset", "mask_offset", "meta_offset", *LENGTHS)
FIELDS += ("image_crc32", "mask_crc32", "meta_crc32", "width", "height", "key_hash", "check")
ENDINGS = (("jpg", "mask.png", "json"), ("png", "mask.png", "json"), ("image.npy", "mask.npy", "json"))  # by format
STORED = {"source": {0, 1}, "jpeg": {0}, "raw": {2}}


def check(record: bytes) -> int:
    total = 0
    for i, word in enumerate(struct.unpack("<9Q", record[:72])):
        digest = hashlib.sha256(f"petseg-shards row {i}".encode()).digest()
        total += word * (int.from_bytes(digest[:8], "little") | 1)
    return total % 2**64


def manifest_of(folder: Path) -> dict[str, Any]:
    data = (folder / "manifest.json").read_bytes()
    document: dict[str, Any] = json.loads(data)
    assert (json.dumps(document, indent=1) + "\n").encode() == data
    empty = {**document, "checksum": ""}
    assert hashlib.sha256((json.dumps(empty, indent=1) + "\n").encode()).hexdigest() == document["checksum"]
    assert (document["format"], document["version"]) == ("petseg-shards", 2)
    size = document["size"] and tuple(document["size"])
    names = json.dumps([each["name"] for each in document["labels"]["classes"]])
    texts = ["petseg-shards", "2", document["storage"], str(size), names]
    for name in ("train", "val", "test"):
        if name in document["splits"]:
            split = document["splits"][name]
            texts += [name, str(split["samples"]), split["table"]["sha256"], split["shard_table"]["sha256"]]
    assert hashlib.sha256("\n".join(texts).encode()).hexdigest() == document["fingerprint"]
    return document


def shards_of(folder: Path, name: str) -> list[dict[str, Any]]:
    """The records of a split's table of shards, with the names of the files."""
    split = manifest_of(folder)["splits"][name]
    data = (folder / f"{name}.shards.npy").read_bytes()
    assert split["shard_table"]["file"] == f"{name}.shards.npy"
    assert len(data) == 256 + 88 * split["shards"] == split["shard_table"]["bytes"]
    assert hashlib.sha256(data).hexdigest() == split["shard_table"]["sha256"]
    found = []
    for number in range(split["shards"]):
        record = data[256 + 88 * number : 344 + 88 * number]
        samples, size, index_size = struct.unpack("<3Q", record[:24])
        shard = {"samples": samples, "bytes": size, "sha256": record[24:56].hex(), "file": f"{name}-{number:06d}.tar"}
        index = {"bytes": index_size, "sha256": record[56:].hex(), "file": f"{name}-{number:06d}.idx"}
        for file in (shard, index):
            content = (folder / file["file"]).read_bytes()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (file["bytes"], file["sha256"])
        found.append({**shard, "index": index})
    assert sum(shard["samples"] for shard in found) == split["samples"]
    assert sum(shard["bytes"] + shard["index"]["bytes"] for shard in found) == split["bytes"]
    return found


def samples_of(folder: Path, name: str) -> Iterator[tuple[str, dict[str, bytes], dict[str, int]]]:
    """Yield key, members and record of each sample, checking all that the page says on the way."""
    document = manifest_of(folder)
    split = document["splits"][name]
    table = (folder / split["table"]["file"]).read_bytes()
    assert len(table) == 448 + 80 * split["samples"] == split["table"]["bytes"]
    position = 448
    for number, shard in enumerate(shards_of(folder, name)):
        tar = (folder / shard["file"]).read_bytes()
        assert hashlib.sha256(tar).hexdigest() == shard["sha256"]
        lines, at = [f"v1.2 {shard['samples']}"], 0
        for _ in range(shard["samples"]):
            record = table[position : position + 80]
            position += 80
            row = dict(zip(FIELDS, RECORD.unpack(record), strict=True))
            assert row["check"] == check(record)
            assert (row["shard"], row["reserved"]) == (number, 0)
            assert row["image_format"] in STORED[document["storage"]]
            members, line, key = {}, [], ""
            for role, ending in zip(("image", "mask", "meta"), ENDINGS[row["image_format"]], strict=True):
                header = tar[at : at + 512]
                full = header[:100].rstrip(b"\0").decode()
                key = full.split(".")[0]
                assert full == f"{key}.{ending}"
                size = int(header[124:135], 8)
                content = tar[at + 512 : at + 512 + size]
                assert (row[f"{role}_offset"], row[f"{role}_length"]) == (at + 512, size)
                assert zlib.crc32(content) == row[f"{role}_crc32"]
                line.append(f"{ending} {at + 512} {size} {full}")
                members[role] = content
                at += 512 + size + -size % 512
            assert int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little") == row["key_hash"]
            lines.append(" ".join(line))
            yield key, members, row
        assert tar[at:] == bytes(1024)
        assert (folder / shard["index"]["file"]).read_text() == "".join(f"{line}\n" for line in lines)


@pytest.mark.parametrize("storage", ["source", "jpeg", "raw"])
def test_the_reader_of_the_page_reads_what_ours_does(tiny_sets: dict[str, Path], storage: str) -> None:
    folder = tiny_sets[storage]
    for name in manifest_of(folder)["splits"]:
        reader = ShardSet.open(folder).split(name)
        found = list(samples_of(folder, name))
        assert len(found) == len(reader)
        for index, (key, members, row) in enumerate(found):
            assert key == reader.key(index)
            assert members == {role: reader.read(index, role) for role in members}
            meta = json.loads(members["meta"])
            assert (meta["key"], meta["split"]) == (key, name)
            assert (meta["width"], meta["height"]) == (row["width"], row["height"])
            assert list(meta) == ["key", "name", "split", "width", "height", "breed", "species", "class_id"]


def key_of(name: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*", name) and len(name) <= 80:
        return name
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    rest = re.sub(r"[^A-Za-z0-9_]+", "_", plain).strip("_")[: 80 - 11] or "x"
    return f"{rest}-{hashlib.sha256(name.encode()).hexdigest()[:10]}"


def test_keys_are_what_the_page_says(maker: Maker, tmp_path: Path) -> None:
    names = ["my cat", "Käse", "猫", "plain", "-x", "y" * 200, "a.b"]
    for name in names:
        maker.add(name)
    build(maker.folder, tmp_path / "out", options(split="random", fractions=(1, 0, 0)), workers=1)
    keys = {json.loads(members["meta"])["name"]: key for key, members, _ in samples_of(tmp_path / "out", "train")}
    assert keys == {name: key_of(name) for name in names}


def test_the_example_of_the_page_is_right() -> None:
    text = PAGE.read_text()
    assert f'{{"key": "{key_of("my cat")}", "name": "my cat"' in text


def test_the_page_has_every_reason_and_field(tiny_sets: dict[str, Path]) -> None:
    text = PAGE.read_text()
    assert not [reason for reason in REASONS if f"`{reason}`" not in text]
    assert not [field for field in manifest_of(tiny_sets["raw"]) if f"`{field}`" not in text]
    kinds = {"<u2": "uint16", "<u4": "uint32", "<u8": "uint64", "|V32": "32 bytes"}
    for dtype in (SAMPLE_DTYPE, SHARD_DTYPE):
        for name in dtype.names or ():
            assert f"| {dtype.fields[name][1]} | {kinds[dtype[name].str]} | `{name}` |" in text  # type: ignore[index]


def test_padding_and_values_of_raw(tiny_sets: dict[str, Path]) -> None:
    document = manifest_of(tiny_sets["raw"])
    (height, width), raw = document["size"], document["raw"]
    shard = shards_of(tiny_sets["raw"], "train")[0]
    data = np.fromfile(tiny_sets["raw"] / shard["file"], np.uint8)
    for i in range(shard["samples"]):
        start = raw["mask_offset"] + i * raw["stride"]
        assert set(np.unique(data[start : start + height * width])) <= {0, 1, 2}


@pytest.mark.parametrize("storage", ["source", "jpeg"])
def test_masks_are_unfiltered_grey_pngs(tiny_sets: dict[str, Path], storage: str) -> None:
    for name in manifest_of(tiny_sets[storage])["splits"]:
        for _, members, _ in samples_of(tiny_sets[storage], name):
            data, kinds, image_data, at = members["mask"], [], b"", 8
            while at < len(data):
                (length,) = struct.unpack(">I", data[at : at + 4])
                kinds.append(data[at + 4 : at + 8])
                image_data += data[at + 8 : at + 8 + length] if kinds[-1] == b"IDAT" else b""
                at += 12 + length
            assert set(kinds) == {b"IHDR", b"IDAT", b"IEND"}
            width, height, depth, color, *_, interlaced = struct.unpack(">IIBBBBB", data[16:29])
            assert (depth, color, interlaced) == (8, 0, 0)
            rows = np.frombuffer(zlib.decompress(image_data), np.uint8).reshape(height, width + 1)
            assert not rows[:, 0].any()
            assert set(np.unique(rows[:, 1:]).tolist()) <= {0, 1, 2}


def test_the_labels_files_of_the_page_are_read() -> None:
    index_masks, rgb_masks = (parse_labels(text) for text in re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.S))
    assert index_masks.names == ("background", "cat", "outline")
    assert index_masks.index_table()[0][[0, 1, 2, 3, 255]].tolist() == [0, 1, 2, 1, 255]
    assert (index_masks.foreground, index_masks.boundary) == (("cat",), ("outline",))
    assert rgb_masks.rgb
    assert [rgb_masks.colour_table()[at] for at in (0x804080, 0x00008E, 0x000046, 0)] == [0, 1, 1, 255]
    assert rgb_masks.classes[1].color == "#0000ff"
    assert [name for name in BUILTIN if f"`{name}`" not in PAGE.read_text()] == []


def test_what_the_page_says_of_fits(maker: Maker, tmp_path: Path) -> None:
    """Each fit by the page's own formulas, on sizes that divide badly."""

    def nearest(half: Fraction) -> int:
        return int(half + Fraction(1, 2))  # rounds half up

    values = np.arange(1, 1 + 47 * 61).reshape(47, 61) % 3 + 1
    mask = values.astype(np.uint8)
    maker.add("a_1", image=encoded(draw_image(1, width=61, height=47), "JPEG"), mask=encoded(mask, "PNG"))
    h, w = mask.shape
    for number, (height, width) in enumerate([(24, 24), (13, 40), (40, 13), (31, 17)]):
        for fit in ("stretch", "cover", "contain"):
            out = tmp_path / f"{number}{fit}"
            changes = {"size": f"{height}x{width}", "fit": fit, "split": "random", "fractions": (1, 0, 0)}
            build(maker.folder, out, options("raw", **changes), workers=1)
            ((_, members, _),) = samples_of(out, "train")
            stored = np.load(io.BytesIO(members["mask"]))
            box, inner, expected = (0, 0, h, w), (0, 0, height, width), np.full((height, width), 255)
            if fit == "cover" and h * width > w * height:
                box = (0, 0, nearest(Fraction(w * height, width)), w)
            elif fit == "cover":
                box = (0, 0, h, nearest(Fraction(h * width, height)))
            elif fit == "contain" and h * width >= w * height:
                inner = (0, 0, height, max(1, nearest(Fraction(w * height, h))))
            elif fit == "contain":
                inner = (0, 0, max(1, nearest(Fraction(h * width, w))), width)
            top, left = (h - box[2]) // 2, (w - box[3]) // 2
            row, column = (height - inner[2]) // 2, (width - inner[3]) // 2
            for y in range(inner[2]):
                for x in range(inner[3]):
                    source = (2 * y + 1) * box[2] // (2 * inner[2]), (2 * x + 1) * box[3] // (2 * inner[3])
                    expected[row + y, column + x] = mask[top + source[0], left + source[1]] - 1
            assert np.array_equal(stored, expected), (height, width, fit)
            image = np.load(io.BytesIO(members["image"]))
            assert (image[expected == 255] == (124, 116, 104)).all()
