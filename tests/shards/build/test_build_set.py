"""A set as a function of its source: the same bytes from any machine, and everything that is reported."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image
from shard_sources import Maker, draw_image, encoded, options, tree

from shards.audit.findings import REASONS
from shards.build import write_shard
from shards.build.build_set import BuildResult, StrictError, build
from shards.errors import SourceError, UsageError
from shards.format.dataset import ShardSet
from shards.sources import scan

AWKWARD = ["my cat 1", "a.b.c_2", "Käse_3", "猫_4", "-rf_5", "a\\..\\up_6", "b..", "x" * 250, "tab\there_7"]


def made(folder: Path, out: Path, **changes: object) -> BuildResult:
    return build(folder, out, options(**changes), workers=1)  # type: ignore[arg-type]


def test_samples_are_what_the_source_holds(tiny_pets: Path, tiny_sets: dict[str, Path]) -> None:
    opened = ShardSet.open(tiny_sets["source"])
    names = []
    for split in opened.manifest.splits:
        reader = opened.split(split)
        for index in range(len(reader)):
            meta = reader.meta(index)
            names.append(meta["name"])
            assert meta["split"] == split
            assert reader.read(index, "image") == (tiny_pets / "images" / f"{meta['name']}.jpg").read_bytes()
            mask = Image.open(tiny_pets / "annotations" / "trimaps" / f"{meta['name']}.png")
            stored = Image.open(io.BytesIO(reader.read(index, "mask")))
            assert np.array_equal(np.asarray(stored), np.asarray(mask) - 1)
            row = reader.rows([index])[0]
            assert (row["width"], row["height"]) == (meta["width"], meta["height"]) == (60, 44)
    assert sorted(names) == sorted(path.stem for path in (tiny_pets / "images").iterdir())


def test_samples_are_shuffled(tiny_sets: dict[str, Path]) -> None:
    reader = ShardSet.open(tiny_sets["source"]).split("train")
    keys = [reader.key(index) for index in range(len(reader))]
    assert keys != sorted(keys)


ELSEWHERE = """
import os, sys
os.umask(0o077)
real = os.scandir
class Reversed:
    def __init__(self, path): self.entries = list(real(path))[::-1]
    def __iter__(self): return iter(self.entries)
    def __enter__(self): return iter(self.entries)
    def __exit__(self, *_): pass
os.scandir = Reversed
from dataclasses import replace
from pathlib import Path
from shards.build.build_set import build
pets, scenes, out, warm = map(Path, sys.argv[1:5])
sys.path.insert(0, sys.argv[5])
from shard_sources import SCENES, options
build(pets, warm / "pets", options("jpeg"), workers=4)  # imports all that root alone may read
build(scenes, warm / "scenes", options(**SCENES), workers=4)
if len(sys.argv) > 6:
    os.setgid(65534); os.setuid(65534)
for storage in ("source", "jpeg", "raw"):
    wide = {} if storage == "source" else {"size": (20, 36), "fit": "contain"}
    build(pets, out / "pets" / storage, options(storage), workers=4)
    build(scenes, out / "scenes" / storage, options(storage, **SCENES, **wide), workers=4)
"""


def test_the_same_bytes_anywhere(
    tiny_pets: Path,
    tiny_sets: dict[str, Path],
    tiny_scenes: Path,
    tiny_scene_sets: dict[str, Path],
    open_folder: Path,
) -> None:
    """Four workers, the folder read backwards, another time zone, umask, user, working folder and hash seed."""
    out = open_folder / "elsewhere"
    out.mkdir()
    copies = [open_folder / "copied pets", open_folder / "copied scenes"]
    for source, copy in zip((tiny_pets, tiny_scenes), copies, strict=True):
        shutil.copytree(source, copy)  # other times of change, another path
    arguments = [
        sys.executable,
        "-c",
        ELSEWHERE,
        *map(str, (*copies, out, open_folder / "warm")),
        str(Path(__file__).parents[1]),
    ]
    if os.getuid() == 0:
        os.chown(out, 65534, 65534)
        arguments.append("as nobody")
    environment = {**os.environ, "TZ": "Pacific/Kiritimati", "PYTHONHASHSEED": "7", "LC_ALL": "C", "HOME": "/nowhere"}
    subprocess.run(arguments, check=True, env=environment, cwd="/", timeout=120)
    for kind, sets in (("pets", tiny_sets), ("scenes", tiny_scene_sets)):
        for storage, folder in sets.items():
            assert tree(folder) == tree(out / kind / storage)
            assert {path.stat().st_mode & 0o777 for path in (out / kind / storage).iterdir()} == {0o644}


def test_nothing_about_the_machine_is_in_a_set(tiny_pets: Path, tiny_sets: dict[str, Path]) -> None:
    text = (tiny_sets["raw"] / "manifest.json").read_text()
    assert str(tiny_pets) not in text
    assert os.uname().nodename not in text
    assert "workers" not in text


def test_awkward_names_are_packed_and_found_again(maker: Maker, tmp_path: Path) -> None:
    for name in AWKWARD:
        maker.add(name)
    built = made(maker.folder, tmp_path / "out", split="random", fractions=(1.0, 0.0, 0.0))
    assert built.manifest.samples == len(AWKWARD)
    reader = ShardSet.open(tmp_path / "out").split("train")
    for number, name in enumerate(AWKWARD):
        index = reader.find(name)
        assert index is not None, name
        assert reader.meta(index)["name"] == name
        assert reader.find(reader.key(index)) == index
        assert reader.read(index, "image") == encoded(draw_image(number), "JPEG", quality=90)
    assert reader.find("nobody") is None


def test_names_that_no_file_system_allows(tiny_pets: Path, tmp_path: Path) -> None:
    """From Python, a source may name its pairs as it likes."""
    names = ["../../etc/passwd", "a/b", "y" * 300, " ", "\n"]
    found = scan(tiny_pets)
    pairs = tuple(msgspec.structs.replace(p, name=n) for p, n in zip(found.pairs, names, strict=False))
    source = replace(found, pairs=pairs, lists={}, findings=())
    build(source, tmp_path / "out", options(split="random", fractions=(0, 0, 1)), workers=1)
    reader = ShardSet.open(tmp_path / "out").split("test")
    assert sorted(reader.meta(index)["name"] for index in range(len(reader))) == sorted(names)
    assert all(reader.find(name) is not None for name in names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def faulty(maker: Maker) -> Path:
    for number in range(6):
        maker.add(f"a_{number}")
    maker.add("cut_1", image=encoded(draw_image(1), "JPEG")[:-30])
    maker.add("bmp_1", image=encoded(draw_image(77), "BMP"))
    maker.add("nobody_1", mask=encoded(np.full((44, 60), 2, np.uint8), "PNG"))
    maker.add("twin_1", seed=0)  # the same image as a_0
    maker.lists(test=["a_0", "a_1", "bmp_1", "missing_1"], trainval=["twin_1", *maker.names[2:7], "nobody_1"])
    (maker.folder / "images" / "x.mat").write_bytes(b"")
    return maker.folder


def test_findings_are_counted_and_written_down(maker: Maker, tmp_path: Path) -> None:
    built = made(faulty(maker), tmp_path / "out", val_fraction=0.0)
    audit = built.manifest.audit
    assert (audit.found, audit.packed, audit.repaired, audit.rejected) == (11, 9, 1, 2)
    assert (built.ignored, len(built.unread)) == (0, 1)
    assert built.unread[0].startswith("images/x.mat")
    lines = [json.loads(line) for line in (tmp_path / "out" / "audit.jsonl").read_text().splitlines()]
    assert [(line["name"], line["action"], line["reason"], line["split"]) for line in lines] == [
        ("a_0", "warning", "duplicate-across-splits", "test"),
        ("bmp_1", "repaired", "image-transcoded", "test"),
        ("cut_1", "rejected", "image-truncated", "train"),
        ("missing_1", "rejected", "listed-but-missing", None),
        ("nobody_1", "warning", "no-foreground", "train"),
        ("twin_1", "warning", "duplicate-across-splits", "train"),
    ]
    assert "a_0 in test" in lines[-1]["detail"]
    assert audit.reasons == {
        "duplicate-across-splits": 2,
        "image-transcoded": 1,
        "image-truncated": 1,
        "listed-but-missing": 1,
        "no-foreground": 1,
    }
    assert set(audit.reasons) <= set(REASONS)


def test_strict_builds_nothing(maker: Maker, tmp_path: Path) -> None:
    faulty(maker)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(StrictError, match="1 image-truncated") as caught:
        build(maker.folder, tmp_path / "out", options(), workers=1, strict=True)
    assert len(caught.value.findings) == 6
    assert sorted(tmp_path.iterdir()) == before


def test_strict_passes_a_clean_source(pets: Path, tmp_path: Path) -> None:
    build(pets, tmp_path / "out", options(), workers=1, strict=True)


def test_counts_are_those_of_the_samples(tiny_pets: Path, tiny_sets: dict[str, Path]) -> None:
    for split in ShardSet.open(tiny_sets["source"]).manifest.splits.values():
        assert set(split.attributes) == {"breed", "class_id", "species"}
        assert all(sum(counts.values()) == split.samples for counts in split.attributes.values())
        assert split.ignored_pixels == 0
    total = np.zeros(4, np.int64)
    for path in (tiny_pets / "annotations" / "trimaps").iterdir():
        total += np.bincount(np.asarray(Image.open(path)).reshape(-1), minlength=4)
    splits = ShardSet.open(tiny_sets["source"]).manifest.splits.values()
    assert np.sum([split.class_pixels for split in splits], axis=0).tolist() == total[1:].tolist()


def test_scenes_of_21_classes(tiny_scenes: Path, tiny_scene_sets: dict[str, Path]) -> None:
    """PNG and JPEG bytes are kept, others transcoded; masks are those of the source, ignored pixels are counted."""
    opened = ShardSet.open(tiny_scene_sets["source"])
    assert opened.manifest.options.layout == "folders"
    assert opened.manifest.audit.reasons == {"image-transcoded": 10}
    assert opened.manifest.audit.repaired == 10
    total, seen = np.zeros(256, np.int64), 0
    for name, split in opened.manifest.splits.items():
        reader = opened.split(name)
        for index in range(len(reader)):
            stem = reader.meta(index)["name"]
            mask = np.asarray(Image.open(tiny_scenes / "masks" / f"{stem}.png"))
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(reader.read(index, "mask")))), mask)
            (path,) = (tiny_scenes / "images").glob(f"{stem}.*")
            if path.suffix == ".bmp":
                stored = Image.open(io.BytesIO(reader.read(index, "image")))
                assert stored.format == "PNG"
                assert np.array_equal(np.asarray(stored), np.asarray(Image.open(path)))
            else:
                assert reader.read(index, "image") == path.read_bytes()
            total += np.bincount(mask.reshape(-1), minlength=256)
            seen += 1
        assert len(split.class_pixels) == 21
    assert seen == 30
    splits = opened.manifest.splits.values()
    assert np.sum([split.class_pixels for split in splits], axis=0).tolist() == total[:21].tolist()
    assert sum(split.ignored_pixels for split in splits) == total[255] > 0


def test_shards_without_samples_leave_no_gap(maker: Maker, tmp_path: Path) -> None:
    for number in range(12):
        maker.add(f"a_{number}", image=b"broken" if number % 3 else None)
    built = made(maker.folder, tmp_path / "out", split="random", fractions=(1, 0, 0), samples_per_shard=1)
    assert built.manifest.splits["train"].shards == 4
    reader = ShardSet.open(tmp_path / "out").split("train")
    names = [f"train-{number:06d}.tar" for number in range(4)]
    assert [shard.file for shard in reader.shards] == names == sorted(p.name for p in (tmp_path / "out").glob("*.tar"))
    assert sorted(reader.key(index) for index in range(4)) == ["a_0", "a_3", "a_6", "a_9"]


def test_all_samples_broken_is_an_error(maker: Maker, tmp_path: Path) -> None:
    maker.add("a_1", image=b"broken")
    with pytest.raises(UsageError, match="no sample passed the audit: 1 image-unknown-format"):
        made(maker.folder, tmp_path / "out", split="random")
    assert not list(tmp_path.glob("out*"))


def test_a_source_that_changes_is_noticed(pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = next((pets / "images").iterdir())
    real = write_shard.audit_pair
    calls = []

    def change_the_next(*arguments: object, **named: object) -> object:
        calls.append(1)
        if len(calls) == 1:
            for path in (pets / "images").iterdir():
                path.write_bytes(path.read_bytes() + b"x")
        return real(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(write_shard, "audit_pair", change_the_next)
    with pytest.raises(SourceError, match="changed while the set was being built; run the same command again"):
        made(pets, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))
    victim.unlink()


def test_a_source_that_vanishes_is_noticed(pets: Path, tmp_path: Path) -> None:
    found = scan(pets)
    (pets / "images" / "Bengal_4.jpg").unlink()
    with pytest.raises(SourceError, match=r"Bengal_4\.jpg vanished"):
        build(found, tmp_path / "out", options(), workers=1)


def test_shards_are_sized_by_bytes(tiny_pets: Path, tmp_path: Path) -> None:
    """By default; in ``raw`` storage exactly as planned."""
    changes = {"storage": "raw", "split": "random", "fractions": (1, 0, 0), "samples_per_shard": None}
    whole = made(tiny_pets, tmp_path / "whole", **changes)
    assert (whole.manifest.splits["train"].shards, whole.manifest.options.shard_bytes) == (1, 256_000_000)
    assert whole.manifest.options.samples_per_shard is None
    assert whole.manifest.raw is not None
    each = whole.manifest.raw.stride
    parts = made(tiny_pets, tmp_path / "parts", **changes, shard_bytes=f"{7 * each / 1000} kB")
    shards = ShardSet.open(tmp_path / "parts").split("train").shards
    assert shards.samples.tolist() == [6] * 5
    assert all(shards.bytes == 6 * each + 1024)
    assert parts.manifest.options.shard_bytes == 7 * each
    again = build(tiny_pets, tmp_path / "again", options(**changes, shard_bytes=7 * each), workers=3)  # type: ignore[arg-type]
    assert again.manifest == parts.manifest
