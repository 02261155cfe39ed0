"""Sets and sources in a bucket, over HTTP: built, copied, described; two that publish at once."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from shard_sources import options, stored, tree
from store_servers import BUCKET, FaultPlan, FaultProxy

from shards.audit.findings import MAX_FILE_BYTES
from shards.build.build_set import build
from shards.build.options import PackOptions
from shards.build.tasks import TaskNumber, build_task, copy_set, join
from shards.build.tasks.publish_in_store import put_manifest
from shards.cli import main
from shards.errors import FormatError, PetsegError, SourceError, UsageError
from shards.format.dataset import ShardSet
from shards.sources import scan
from shards.sources.pairs import store_mirror
from shards.sources.pairs.store_mirror import _Mirror
from shards.store.open_store import open_store
from shards.store.store_protocol import ObjectStatus, StoreError
from shards.verify.check_address import verify_address


@pytest.fixture
def place(server: FaultProxy, tmp_path: Path) -> str:
    return f"s3://{BUCKET}/{tmp_path.name}"


def upload(folder: Path, address: str) -> None:
    store = open_store(address)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            store.put(path.relative_to(folder).as_posix(), path)


def test_from_a_bucket_to_a_bucket_by_tasks(
    gappy: Path, chosen: PackOptions, expected: dict[str, bytes], place: str, server: FaultProxy
) -> None:
    upload(gappy, f"{place}/pets")
    server.plan = FaultPlan(rate=0.1, faults=("503", "cut body"), only=lambda *_: True)
    for task in (1, 0):
        number = TaskNumber(task=task, tasks=2, origin="")
        build_task(f"{place}/pets", f"{place}/set", chosen, number=number, workers=1)
    join(f"{place}/set")
    assert stored(f"{place}/set") == expected
    assert server.plan.injected.total() > 3


def test_a_build_to_a_bucket_goes_on_and_is_complete(
    gappy: Path, chosen: PackOptions, expected: dict[str, bytes], place: str
) -> None:
    def stop(done: int, _: int) -> None:
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        build(gappy, f"{place}/set", chosen, workers=1, progress=stop)
    assert "finished shards of this task are kept in s3://" in caught.value.__notes__[0]
    built = build(gappy, f"{place}/set", chosen, workers=1)
    assert built.resumed >= 2
    assert stored(f"{place}/set") == expected
    assert build(gappy, f"{place}/set", chosen, workers=1).already_complete
    with pytest.raises(UsageError, match="finished set of another source or other options"):
        build(gappy, f"{place}/set", msgspec.structs.replace(chosen, seed=1), workers=1)


def test_worker_processes_upload(gappy: Path, chosen: PackOptions, expected: dict[str, bytes], place: str) -> None:
    build(gappy, f"{place}/set", chosen, workers=2)
    assert stored(f"{place}/set") == expected


def test_of_two_publishers_one_wins(place: str) -> None:
    store, outcomes = open_store(f"{place}/set"), []

    def publish(data: bytes) -> None:
        try:
            put_manifest(open_store(store.address), data)
            outcomes.append("published")
        except PetsegError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=publish, args=(b"%d" % (number % 2),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("published") == 4  # those whose set is the one that was first
    assert sum("another set was published" in text for text in outcomes) == 4


def test_copies_there_and_back(tiny_sets: dict[str, Path], place: str, tmp_path: Path) -> None:
    here = tiny_sets["jpeg"]
    copied = copy_set(here, f"{place}/a")
    assert copied.skipped == 0
    assert copied.bytes == sum(len(data) for name, data in tree(here).items() if name != "manifest.json")
    copy_set(f"{place}/a", f"{place}/b")
    copy_set(f"{place}/b", tmp_path / "back")
    assert stored(f"{place}/a") == stored(f"{place}/b") == tree(here) == tree(tmp_path / "back")
    assert [path.name for path in tmp_path.iterdir()] == ["back"]
    assert copy_set(here, f"{place}/b").already_complete
    assert copy_set(f"{place}/a", tmp_path / "back").already_complete
    with pytest.raises(UsageError, match="holds another set; use overwrite=True"):
        copy_set(tiny_sets["raw"], f"{place}/b")
    copy_set(tiny_sets["raw"], f"{place}/b", overwrite=True)
    assert stored(f"{place}/b") == tree(tiny_sets["raw"])
    with pytest.raises(UsageError, match="cannot be copied to itself"):
        copy_set(here, here)


@pytest.mark.parametrize("target", ["folder", "bucket"])
def test_a_copy_that_was_interrupted_goes_on(
    tiny_sets: dict[str, Path], place: str, tmp_path: Path, target: str
) -> None:
    here, there = tiny_sets["source"], tmp_path / "copy" if target == "folder" else f"{place}/copy"

    def stop(done: int, _: int) -> None:
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_set(here, there, progress=stop)
    partly = tmp_path / "copy.building" if target == "folder" else f"{place}/copy"
    victim = "train-000001.tar"
    damaged = b"x" + (here / victim).read_bytes()[1:]
    open_store(partly).put(victim, damaged)
    assert 8 <= copy_set(here, there).skipped < len(tree(here)) - 1
    assert (tree(there) if isinstance(there, Path) else stored(there)) == tree(here)


def test_a_damaged_set_is_not_copied(tiny_sets: dict[str, Path], place: str, tmp_path: Path) -> None:
    copy_set(tiny_sets["source"], f"{place}/a")
    store = open_store(f"{place}/a")
    data = store.read("test-000000.tar")
    for content, message in (
        (b"x" + data[1:], r"test-000000\.tar is damaged: its SHA-256 is not the manifest's"),
        (data[:-1], r"test-000000\.tar has not the \d+ bytes"),
    ):
        store.put("test-000000.tar", content)
        with pytest.raises(FormatError, match=message):
            copy_set(f"{place}/a", tmp_path / "copy")
        assert not (tmp_path / "copy").exists()
    store.delete("test-000000.tar")
    with pytest.raises(FormatError, match=r"test-000000\.tar is missing"):
        copy_set(f"{place}/a", tmp_path / "copy")
    with pytest.raises(FormatError, match="holds no finished shard set"):
        copy_set(f"{place}/nothing", tmp_path / "copy")


def test_sources_in_a_bucket(tiny_scenes: Path, place: str, tmp_path: Path, server: FaultProxy) -> None:
    """Folders, and a table; what is not there, and what changes meanwhile, is named by its address."""
    chosen = options(split="random", samples_per_shard=16)
    with pytest.raises(SourceError, match=f"there is nothing at {place}/scenes"):
        build(f"{place}/scenes", tmp_path / "out", chosen, workers=1)
    table = tmp_path / "source"
    (table / "files").mkdir(parents=True)
    rows = ["image,mask"]
    for path in sorted((tiny_scenes / "masks").iterdir())[:3]:
        image = next((tiny_scenes / "images").glob(f"{path.stem}.*"))
        for file, name in ((image, image.name), (path, f"{path.stem}_mask.png")):
            (table / "files" / name).write_bytes(file.read_bytes())
        rows.append(f"files/{image.name},files/{path.stem}_mask.png")
    (table / "list.csv").write_text("\n".join(rows))
    upload(table, f"{place}/scenes")
    from shard_sources import SCENE_LABELS

    chosen = options(split="random", samples_per_shard=16, labels=SCENE_LABELS)
    build(table / "list.csv", tmp_path / "expected", chosen, workers=1)
    build(f"{place}/scenes/list.csv", tmp_path / "out", chosen, workers=1)
    assert tree(tmp_path / "out") == tree(tmp_path / "expected")
    with pytest.raises(UsageError, match=f"which classes do the masks of {place}/scenes have"):
        build(f"{place}/scenes", tmp_path / "none", options(split="random"), workers=1)
    found = scan(f"{place}/scenes/list.csv")
    victim = found.pairs[1].image
    assert victim.startswith(f"{place}/scenes/files/")
    open_store(place).put(victim.removeprefix(f"{place}/"), b"other bytes")
    with pytest.raises(SourceError, match=f"{victim} changed while the set was being built"):
        build(found, tmp_path / "none", chosen, workers=1)


def test_files_in_a_bucket_count_by_their_first_bytes(
    tiny_scenes: Path, place: str, tmp_path: Path, server: FaultProxy
) -> None:
    """As those of a folder do: without an ending, with a rare or a wrong one; no image is fetched for that."""
    source = tmp_path / "source"
    endings = ("", ".jpe", ".webp", ".d")
    for number, mask in enumerate(sorted((tiny_scenes / "masks").iterdir())[:8]):
        image = next((tiny_scenes / "images").glob(f"{mask.stem}.*"))
        for folder, file in (("images", image), ("masks", mask)):
            (source / folder).mkdir(parents=True, exist_ok=True)
            (source / folder / f"{mask.stem}{endings[number % 4]}").write_bytes(file.read_bytes())
    upload(source, f"{place}/scenes")
    here = scan(source)
    server.plan = FaultPlan()
    there = scan(f"{place}/scenes")
    assert len(there.pairs) == 7  # a BMP with another ending may be anything
    assert [pair.name for pair in there.pairs] == [pair.name for pair in here.pairs]
    assert (there.unread, there.ignored, there.reason) == (here.unread, here.ignored, here.reason)
    assert server.plan.requests["GET"] <= 1 + 16  # of the first bytes


def test_odd_names_in_a_bucket(tiny_scenes: Path, place: str, server: FaultProxy) -> None:
    """An object that a console makes for a folder is none of the files; one whose name is no path is named at once."""
    from boto3 import client

    upload(tiny_scenes, f"{place}/scenes")
    expected, bucket = len(scan(tiny_scenes).pairs), client("s3", region_name="us-east-1")
    prefix = f"{place.removeprefix(f's3://{BUCKET}/')}/scenes"
    bucket.put_object(Bucket=BUCKET, Key=f"{prefix}/images/", Body=b"")
    assert len(scan(f"{place}/scenes").pairs) == expected
    for name in ("images/../../evil.jpg", "/double.jpg", "images/a\x1b[31m.jpg"):
        bucket.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=b"x")
        server.plan = plan = FaultPlan()
        with pytest.raises(
            StoreError, match=r"there is an object whose name is no path .*; rename or remove it"
        ) as caught:
            scan(f"{place}/scenes")
        assert str(caught.value).isprintable()
        assert plan.requests.total() == 1
        bucket.delete_object(Bucket=BUCKET, Key=f"{prefix}/{name}")


class _Listed:
    """A store that says that it has files of these names and sizes."""

    address, read_only = "s3://bucket/scenes", False

    def __init__(self, **sizes: int) -> None:
        self._sizes = sizes

    def list(self) -> Iterator[tuple[str, ObjectStatus]]:
        yield from ((name, ObjectStatus(size, '"x"')) for name, size in self._sizes.items())


def test_a_list_may_say_any_size(tmp_path: Path) -> None:
    """Also one that no file of the disk can have, and no number of the system."""
    sizes = {"images/a.jpg": 10, "images/b.jpg": 2**62, "images/c.jpg": 2**64 - 1}
    mirror = _Mirror(store=cast(Any, _Listed(**sizes)), root=tmp_path, files={})
    mirror.lay_out()
    found = {name: (tmp_path / name).stat().st_size for name in sizes}
    assert found["images/a.jpg"] == 10
    assert min(found["images/b.jpg"], found["images/c.jpg"]) > MAX_FILE_BYTES


def test_a_name_that_no_disk_holds_is_said_by_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_mirror, "open_store", lambda address: _Listed(**{"a/" * 3000 + "x.jpg": 1}))
    with pytest.raises(PetsegError, match=r"^s3://bucket/scenes: .*name too long: 's3://bucket/scenes/a/a") as caught:
        scan("s3://bucket/scenes")
    assert len(str(caught.value)) < 1000


def test_a_file_that_is_too_large_is_rejected_unread(
    tiny_scenes: Path, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shard_sources import SCENE_LABELS

    monkeypatch.setattr("shards.audit.findings.MAX_FILE_BYTES", 10_000)
    source = tmp_path / "source"
    shutil.copytree(tiny_scenes, source)
    victims = sorted((source / "images").iterdir())[:1] + sorted((source / "masks").iterdir())[1:2]
    for path in victims:
        path.write_bytes(path.read_bytes() + bytes(1 << 20))
    upload(source, f"{place}/scenes")
    chosen = options(split="random", labels=SCENE_LABELS)
    for address in (source, f"{place}/scenes"):
        built = build(address, tmp_path / "out", chosen, workers=1, overwrite=True)
        assert built.manifest.audit.reasons.items() >= {"image-too-large": 1, "mask-too-large": 1}.items()
        assert built.manifest.audit.rejected == 2


def test_a_bucket_that_is_not_there(gappy: Path, chosen: PackOptions, server: FaultProxy) -> None:
    address = "s3://no-such-bucket/set"
    for use in (
        lambda: build(gappy, address, chosen, workers=1),
        lambda: copy_set(address, "nowhere"),
        lambda: join(address),
        lambda: ShardSet.open(address),
        lambda: verify_address(address),
        lambda: scan(address),
    ):
        with pytest.raises(StoreError, match="no such bucket"):
            use()


def test_commands_take_addresses(
    tiny_sets: dict[str, Path], place: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def run(*arguments: str | Path) -> str:
        with pytest.raises(SystemExit) as caught:
            main.main([str(argument) for argument in arguments], prog_name="petseg-shard")
        captured = capsys.readouterr()
        assert caught.value.code == 0, captured.err
        assert not captured.err
        return captured.out

    assert "30 samples in 24 files" in run("copy", tiny_sets["jpeg"], f"{place}/set")
    assert '"already_complete": true' in run("copy", tiny_sets["jpeg"], f"{place}/set", "--json")
    assert f"{place}/set: 30 samples" in run("info", f"{place}/set")
    assert f"{place}/set: 30 samples in" in run("verify", f"{place}/set")
    assert "7 samples in" in run("preview", f"{place}/set", tmp_path / "sheet.png", "--count", "7")


def test_damage_in_a_bucket_is_named(tiny_sets: dict[str, Path], place: str) -> None:
    copy_set(tiny_sets["source"], f"{place}/set")
    store = open_store(f"{place}/set")
    tar = bytearray(store.read("test-000001.tar"))
    tar[600] ^= 1
    store.put("test-000001.tar", bytes(tar))
    store.delete("train-000002.idx")
    store.put("train-000099.tar", b"")
    report = verify_address(f"{place}/set", mode="full", workers=2)
    assert report.path == f"{place}/set"
    assert {(found.kind, found.file) for found in report.problems} >= {
        ("missing", "train-000002.idx"),
        ("stray", "train-000099.tar"),
    }
    assert {found.file for found in report.problems} == {"test-000001.tar", "train-000002.idx", "train-000099.tar"}
    with pytest.raises(FormatError, match="holds no finished shard set"):
        verify_address(f"{place}/none")
    with pytest.raises(UsageError, match="quick is for folders"):
        verify_address(f"{place}/set", mode="quick")
