"""Any change of a set is found, with its place; no damage makes verify raise."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from forging import reseal_shards, sealed, with_fingerprint
from shard_sources import SCENES, Maker, fill, fill_scenes, options, tree

from shards.build.build_set import build
from shards.errors import PetsegError
from shards.format.dataset import ShardSet
from shards.format.layout import ROLES, row_check, table_offset
from shards.format.manifest import load_manifest
from shards.format.npy import table_header
from shards.verify.check_set import verify
from shards.verify.problems import MAX_PER_FILE, Mode

STORAGES = ("source", "jpeg", "raw")


@pytest.fixture(params=STORAGES)
def storage(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def sets_with_audit(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A set of each storage, of pets and of 21 classes; each has an audit line, so that every file can be damaged."""
    maker = Maker(tmp_path_factory.mktemp("audit") / "pets")
    maker.write("cut_1", b"broken", b"broken")
    pets = fill(maker, 30)
    scenes = fill_scenes(tmp_path_factory.mktemp("audit") / "scenes", 15)
    sets = {}
    for storage in STORAGES:
        folder = tmp_path_factory.mktemp("sets")
        wide = {} if storage == "source" else {"size": (20, 36), "fit": "contain"}
        sets[storage], sets[f"{storage} 21"] = folder / storage, folder / f"{storage} 21"
        build(pets, sets[storage], options(storage), workers=1)
        build(scenes, sets[f"{storage} 21"], options(storage, **SCENES, **wide), workers=1)
    assert all(file.stat().st_size for path in sets.values() for file in path.iterdir())
    return sets


@pytest.fixture
def copy(tiny_sets: dict[str, Path], storage: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_sets[storage], tmp_path / "set"))


@pytest.mark.parametrize("mode", ["quick", "default", "full"])
def test_an_intact_set_has_no_problems(tiny_sets: dict[str, Path], storage: str, mode: Mode) -> None:
    report = verify(tiny_sets[storage], mode=mode, workers=2)
    assert report.ok, report.text()
    assert report.samples == 30


def flip(path: Path, byte: int, bit: int) -> None:
    with path.open("r+b") as handle:
        handle.seek(byte)
        value = handle.read(1)[0]
        handle.seek(byte)
        handle.write(bytes([value ^ 1 << bit]))


@pytest.mark.faults
def test_any_flipped_bit_is_found(
    sets_with_audit: dict[str, Path], tmp_path: Path, campaign: Callable[[int, int], int]
) -> None:
    """Bits anywhere in a set; each file is equally likely, so that manifest and index get their share."""
    rng = random.Random(20)
    expected = {name: contents(path) for name, path in sets_with_audit.items()}
    copies = {name: Path(shutil.copytree(path, tmp_path / name)) for name, path in sets_with_audit.items()}
    for _ in range(campaign(60, 1000)):
        name = rng.choice(sorted(copies))
        folder = copies[name]
        path = rng.choice(sorted(folder.iterdir()))
        size = path.stat().st_size
        byte, bit = rng.randrange(size), rng.randrange(8)
        flip(path, byte, bit)
        report = verify(folder)
        assert not report.ok, f"{path.name}: bit {bit} of byte {byte}"
        assert path.name in {problem.file for problem in report.problems}
        json.dumps(report.as_json())
        check_loading(folder, expected[name])
        flip(path, byte, bit)
    for name, folder in copies.items():
        assert tree(folder) == tree(sets_with_audit[name])


def contents(folder: Path) -> dict[str, dict[str, bytes]]:
    """All members of a set by key."""
    opened = ShardSet.open(folder)
    readers = [opened.split(name) for name in opened.manifest.splits]
    return {
        reader.key(index): {role: reader.read(index, role) for role in ROLES}
        for reader in readers
        for index in range(len(reader))
    }


def check_loading(folder: Path, expected: dict[str, dict[str, bytes]]) -> None:
    """Reading a damaged set gives what was packed under this key, or an error that a user can act on."""
    with contextlib.suppress(PetsegError):
        opened = ShardSet.open(folder)
        for name in opened.manifest.splits:
            reader = opened.split(name)
            for index in range(len(reader)):
                key = reader.key(index)
                assert {role: reader.read(index, role) for role in ROLES} == expected[key]


@pytest.mark.faults
def test_truncated_grown_deleted_and_swapped_files_are_found(
    sets_with_audit: dict[str, Path], tmp_path: Path, campaign: Callable[[int, int], int]
) -> None:
    rng = random.Random(4)
    expected = {name: contents(path) for name, path in sets_with_audit.items()}
    for turn in range(campaign(30, 1000)):
        name = rng.choice(sorted(sets_with_audit))
        folder = Path(shutil.copytree(sets_with_audit[name], tmp_path / str(turn)))
        files = sorted(path for path in folder.iterdir() if path.stat().st_size)
        victim, other = rng.sample(files, 2)
        action = rng.choice(["cut", "grow", "delete", "swap", "zeros", "noise", "folder"])
        data = victim.read_bytes()
        if action == "cut":
            victim.write_bytes(data[: rng.randrange(len(data))])
        elif action == "grow":
            victim.write_bytes(data + bytes(rng.choice([1, 512, 10240])))
        elif action == "delete":
            victim.unlink()
        elif action == "swap":
            victim.write_bytes(other.read_bytes())
            other.write_bytes(data)
        elif action == "zeros":
            victim.write_bytes(bytes(len(data)))
        elif action == "noise":
            victim.write_bytes(rng.randbytes(len(data)))
        else:
            victim.unlink()
            victim.mkdir()
        report = verify(folder)
        assert not report.ok, (name, victim.name, action)
        json.dumps(report.as_json())
        for mode in ("quick", "full"):
            json.dumps(verify(folder, mode=mode).as_json())  # type: ignore[arg-type]
        if action in ("cut", "grow", "delete", "folder"):
            assert not verify(folder, mode="quick").ok, (victim.name, action)
        check_loading(folder, expected[name])
        shutil.rmtree(folder)


def test_swapped_shards_of_equal_size_are_noticed_on_reading(tiny_sets: dict[str, Path], tmp_path: Path) -> None:
    """In ``raw`` storage all full tars have the same size, so that sizes do not reveal a swap."""
    folder = Path(shutil.copytree(tiny_sets["raw"], tmp_path / "set"))
    first, second = folder / "train-000000.tar", folder / "test-000001.tar"
    assert first.stat().st_size == second.stat().st_size
    first.rename(folder / "x")
    second.rename(first)
    (folder / "x").rename(second)
    reader = ShardSet.open(folder).split("train")
    with pytest.raises(PetsegError, match=r"train-000000\.tar does not match train\.samples\.npy"):
        reader.open_tar(0)
    assert not verify(folder, mode="quick").ok


def test_a_damaged_member_is_named(copy: Path) -> None:
    reader = ShardSet.open(copy).split("train")
    row, key = reader.rows([5])[0], reader.key(5)
    shard = reader.shard_path(int(row["shard"]))
    flip(shard, int(row["mask_offset"]) + 7, 3)
    (problem,) = verify(copy).problems
    assert (problem.kind, problem.file, problem.shard, problem.key) == ("member", shard.name, int(row["shard"]), key)
    assert problem.member is not None
    assert problem.member.startswith(f"{key}.mask.")
    assert problem.offset == int(row["mask_offset"]) + 7
    assert shard.name in problem.line()
    with pytest.raises(PetsegError, match=rf"{key}\.mask.*do not match their checksum"):
        reader.read(5, "mask")


def test_several_damaged_bytes_are_named_as_a_range(copy: Path) -> None:
    reader = ShardSet.open(copy).split("train")
    row = reader.rows([5])[0]
    start, length = int(row["image_offset"]), int(row["image_length"])
    for byte in (3, 50, 77):
        flip(reader.shard_path(int(row["shard"])), start + byte, 1)
    (problem,) = verify(copy).problems
    assert (problem.kind, problem.offset) == ("member", start)
    assert f"(bytes {start} to {start + length - 1})" in problem.message


@pytest.mark.parametrize("byte", [3, 130, 256, 280, 319, 370, 256 + 88 + 7])
def test_a_damaged_table_of_shards_is_named(copy: Path, byte: int) -> None:
    """Header, samples, checksums of tars and indices: the tars themselves say what was there."""
    path = copy / "train.shards.npy"
    flip(path, byte, 4)
    for mode in ("quick", "default", "full"):
        (problem,) = verify(copy, mode=mode).problems  # type: ignore[arg-type]
        assert (problem.kind, problem.file, problem.offset) == ("checksum", path.name, byte)
    with pytest.raises(PetsegError, match=r"train\.shards\.npy is damaged"):
        ShardSet.open(copy).split("train").read(0, "image")


def test_a_damaged_table_of_shards_of_damaged_tars_is_found(copy: Path) -> None:
    flip(copy / "train.shards.npy", 280, 4)
    flip(copy / "train-000001.tar", 600, 0)
    problems = verify(copy).problems
    assert {problem.file for problem in problems} >= {"train.shards.npy", "train-000001.tar"}


@pytest.mark.parametrize("role", ["image", "meta"])
def test_a_damaged_header_is_named(copy: Path, role: str) -> None:
    reader = ShardSet.open(copy).split("train")
    row, key = reader.rows([1])[0], reader.key(1)
    at = int(row[f"{role}_offset"]) - 512 + 110  # in the owner field, which tar tools ignore
    flip(reader.shard_path(0), at, 0)
    (problem,) = verify(copy).problems
    assert (problem.kind, problem.key, problem.offset) == ("header", key, at)


def test_damaged_padding_and_end_are_named(copy: Path) -> None:
    reader = ShardSet.open(copy).split("train")
    row = reader.rows([0])[0]
    end = int(row["meta_offset"]) + int(row["meta_length"])
    flip(reader.shard_path(0), end, 0)
    flip(reader.shard_path(0), reader.shard_path(0).stat().st_size - 1, 7)
    size = reader.shard_path(0).stat().st_size
    assert [(problem.kind, problem.offset) for problem in verify(copy).problems] == [
        ("padding", end),
        ("padding", size - 1),
    ]


def test_a_damaged_record_is_named(copy: Path) -> None:
    path = copy / "train.samples.npy"
    flip(path, table_offset(6) + 13, 2)
    report = verify(copy)
    assert {problem.file for problem in report.problems} == {path.name}
    assert table_offset(6) + 13 in {problem.offset for problem in report.problems}
    with pytest.raises(PetsegError, match="the record of sample 6"):
        ShardSet.open(copy).split("train").rows([5, 6])


def test_a_damaged_index_is_named(copy: Path) -> None:
    path = copy / "train-000001.idx"
    text = path.read_bytes()
    flip(path, len(text) // 2, 0)
    (problem,) = verify(copy).problems
    assert (problem.kind, problem.file, problem.offset) == ("index", path.name, len(text) // 2)


def rewritten(folder: Path, change: Callable[[dict], None]) -> None:
    """Change the manifest and give it the correct checksum."""
    document = json.loads((folder / "manifest.json").read_bytes())
    change(document)
    (folder / "manifest.json").write_bytes(sealed(document))


@pytest.mark.parametrize("field", ["class_pixels", "ignored_pixels", "breed", "species"])
def test_counts_that_are_not_the_samples_are_found(copy: Path, field: str) -> None:
    def change(document: dict) -> None:
        split = document["splits"]["train"]
        if field.endswith("_pixels"):
            split["class_pixels"][0] -= 1
            split["ignored_pixels"] += field == "ignored_pixels"
        else:
            counts = split["attributes"][field]
            counts[next(iter(counts))] += 1

    rewritten(copy, change)
    load_manifest(copy)
    report = verify(copy, mode="full")
    assert {(problem.kind, problem.file) for problem in report.problems} == {("count", "manifest.json")}
    assert field in report.problems[-1].message


@pytest.mark.parametrize("field", ["found", "packed", "repaired", "rejected", "reasons"])
def test_audit_counts_that_are_not_the_files_are_found(copy: Path, field: str) -> None:
    def change(document: dict) -> None:
        if field == "reasons":
            document["audit"][field]["image-grey"] = 1
        else:
            document["audit"][field] += 1

    rewritten(copy, change)
    (problem,) = verify(copy).problems
    assert (problem.kind, problem.file) == ("count", "audit.jsonl")
    assert problem.message.startswith(f"{field}: the manifest says")


@pytest.mark.parametrize("mode", ["quick", "default", "full"])
@pytest.mark.parametrize("field", ["stride", "image_offset", "mask_offset"])
def test_wrong_offsets_of_raw_pixels_are_found(
    tiny_sets: dict[str, Path], tmp_path: Path, field: str, mode: Mode
) -> None:
    copy = Path(shutil.copytree(tiny_sets["raw"], tmp_path / "set"))
    rewritten(copy, lambda document: document["raw"].update({field: document["raw"][field] + 512}))
    problems = verify(copy, mode=mode).problems
    assert any(field in problem.message or field == "stride" for problem in problems)


def test_a_wrong_largest_size_is_found(tiny_sets: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_sets["source"], tmp_path / "set"))
    rewritten(copy, lambda document: document.update(largest=[44, 61]))
    (problem,) = verify(copy).problems
    assert problem.message == "largest: the manifest says 44x61, the samples say 44x60"


@pytest.mark.parametrize("value", [3, 9, 254])
def test_a_value_that_matches_all_checksums_is_found(tiny_sets: dict[str, Path], tmp_path: Path, value: int) -> None:
    """A value that no class has, every checksum recomputed, in ``raw`` storage: only decoding finds it."""
    copy = Path(shutil.copytree(tiny_sets["raw"], tmp_path / "set"))
    table_path, tar_path = copy / "train.samples.npy", copy / "train-000000.tar"
    table = np.load(table_path)
    row = table[0]
    tar = bytearray(tar_path.read_bytes())
    at, length = int(row["mask_offset"]), int(row["mask_length"])
    tar[at + length - 1] = value
    tar_path.write_bytes(tar)
    table[0]["mask_crc32"] = zlib.crc32(tar[at : at + length])
    table[0]["check"] = row_check(table[:1])[0]
    table_path.write_bytes(table_header(len(table)) + table.tobytes())

    def change(document: dict) -> None:
        split = document["splits"]["train"]
        split["table"]["sha256"] = hashlib.sha256(table_path.read_bytes()).hexdigest()
        digest = hashlib.sha256(tar_path.read_bytes()).digest()

        def rewrite(records: np.ndarray) -> None:
            records["sha256"][0] = np.frombuffer(digest, np.uint8)

        reseal_shards(copy, document, "train", rewrite)

    rewritten(copy, change)
    rewritten(copy, lambda document: document.update(with_fingerprint(document)))
    assert verify(copy).ok
    (problem,) = verify(copy, mode="full").problems
    assert (problem.kind, problem.offset) == ("decode", at)
    assert "mask-values" in problem.message


def test_stray_shards_are_found_and_other_files_are_not(copy: Path) -> None:
    (copy / "README.md").write_text("mine")
    assert verify(copy).ok
    (copy / "train-000099.tar").write_bytes(b"")
    (problem,) = verify(copy, mode="quick").problems
    assert (problem.kind, problem.file) == ("stray", "train-000099.tar")


def test_a_file_that_differs_everywhere_does_not_flood(tiny_sets: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_sets["source"], tmp_path / "set"))
    path = folder / "train-000000.tar"
    path.write_bytes(bytes(path.stat().st_size))
    report = verify(folder)
    assert 1 <= len(report.problems) <= 3 * MAX_PER_FILE


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 100000, b'{"format": "petseg-shards", "version": 2}', b"1" * 5000],
)
def test_garbage_manifests(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    (problem,) = verify(tmp_path).problems
    assert problem.kind == "manifest"
    with pytest.raises(PetsegError):
        ShardSet.open(tmp_path)


def test_another_version_says_so(copy: Path) -> None:
    for version, shown in ((3, "3"), ("x" * 100_000, r"'x+\.\.\.x+'"), ([[1]] * 100_000, r"\[\[.*\.\.\..*\]\]")):
        rewritten(copy, lambda document, version=version: document.update(version=version))
        with pytest.raises(PetsegError, match=f"version {shown}, this program reads version 2") as found:
            ShardSet.open(copy)
        assert len(str(found.value)) < 1000


def test_paths_in_a_manifest_cannot_leave_the_set(copy: Path) -> None:
    rewritten(copy, lambda document: document["audit"]["file"].update(file="../audit.jsonl"))
    with pytest.raises(PetsegError, match="is damaged"):
        ShardSet.open(copy)


def test_no_set_at_all(tmp_path: Path) -> None:
    assert not verify(tmp_path).ok
    assert not verify(tmp_path / "nowhere").ok
