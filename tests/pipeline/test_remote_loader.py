"""Sets in an object store: the same batches as from a folder, whatever network, cache and other processes do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from store_servers import BUCKET, FAULTS, FaultPlan, FaultProxy, range_server, s3_server

from pipeline import Loader
from shards import ShardSet
from shards.errors import FormatError, PetsegError, SampleError, UsageError
from shards.store.cloud.object_store import Patience
from shards.store.open_store import open_store
from shards.store.remote.content_cache import ContentCache, open_cache
from shards.store.store_protocol import ObjectChangedError, StoreError

Batches = list[tuple[bytes, bytes, bytes]]
OPTIONS: dict[str, Any] = {
    "split": "train",
    "batch_size": 4,
    "size": 32,
    "device": "cpu",
    "augment": "train",
    "seed": 3,
}


@pytest.fixture(scope="module")
def running_server() -> Iterator[FaultProxy]:
    with s3_server() as server:
        yield server


@pytest.fixture(scope="module")
def uploaded(running_server: FaultProxy, sets: dict[str, Path]) -> dict[str, str]:
    for name, folder in sets.items():
        store = open_store(f"s3://{BUCKET}/{name}")
        for path in folder.iterdir():
            store.put(path.name, path)
    return {name: f"s3://{BUCKET}/{name}" for name in sets}


@pytest.fixture
def server(running_server: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> FaultProxy:
    """The server without faults; failed requests are repeated at once."""
    running_server.plan = FaultPlan()
    monkeypatch.setattr(Patience, "wait", lambda self, attempt: 0.001)
    return running_server


def batches(loader: Loader, epochs: int = 1) -> Batches:
    return [
        (batch.index.numpy().tobytes(), batch.image.numpy().tobytes(), batch.mask.numpy().tobytes())
        for _ in range(epochs)
        for batch in loader
    ]


@pytest.fixture(scope="module")
def local(sets: dict[str, Path]) -> Callable[..., Batches]:
    known: dict[str, Batches] = {}

    def load(storage: str, epochs: int = 1, **options: Any) -> Batches:
        key = f"{storage} {epochs} {options}"
        if key not in known:
            with Loader(sets[storage], **{**OPTIONS, **options}) as loader:
                known[key] = batches(loader, epochs)
        return known[key]

    return load


@pytest.mark.parametrize("fetch", ["auto", "range", "shard"])
@pytest.mark.parametrize("storage", ["source", "raw"])
def test_the_same_batches(
    server: FaultProxy, uploaded: dict[str, str], local: Any, tmp_path: Path, storage: str, fetch: Any
) -> None:
    with Loader(uploaded[storage], fetch=fetch, cache=tmp_path, **OPTIONS) as loader:
        assert batches(loader, 2) == local(storage, 2)
        split = ShardSet.open(uploaded[storage], cache=tmp_path).split("train")
        with Loader(split.store.address, cache=tmp_path, **OPTIONS) as other:
            assert [other.key(index) for index in (0, 1)] == [split.key(index) for index in (0, 1)]
    before = server.plan.requests.total()
    with Loader(uploaded[storage], fetch=fetch, cache=tmp_path, **OPTIONS) as loader:
        assert batches(loader, 2) == local(storage, 2)
    assert server.plan.requests.total() == before + 2, "all but the manifest comes from the cache"


@pytest.mark.parametrize("options", [{"engine": "dali"}, {"processes": 2}], ids=["dali", "processes"])
def test_other_engines(server: FaultProxy, uploaded: dict[str, str], local: Any, tmp_path: Path, options: Any) -> None:
    with Loader(uploaded["source"], fetch="range", cache=tmp_path, **OPTIONS, **options) as loader:
        assert batches(loader, 2) == local("source", 2, **options)


def test_an_epoch_goes_on_where_it_stopped(
    server: FaultProxy, uploaded: dict[str, str], local: Any, tmp_path: Path
) -> None:
    with Loader(uploaded["source"], cache=tmp_path / "a", **OPTIONS) as loader:
        next(iter(loader))
        state = loader.state_dict()
    with Loader(uploaded["source"], cache=tmp_path / "b", fetch="range", **OPTIONS) as loader:
        loader.load_state_dict(state)
        assert batches(loader) == local("source")[1:]


def test_many_requests_are_in_flight(server: FaultProxy, uploaded: dict[str, str], tmp_path: Path) -> None:
    server.plan = FaultPlan(delay=0.1)
    with Loader(uploaded["source"], fetch="range", cache=tmp_path, **OPTIONS) as loader:
        batches(loader)
    assert server.plan.most_at_once > 4


@pytest.mark.faults
def test_faults_lose_nothing(
    server: FaultProxy, uploaded: dict[str, str], local: Any, tmp_path: Path, campaign: Callable[[int, int], int]
) -> None:
    """Nothing is lost, nothing is wrong, and all is reported."""
    goal, injected, reported, epoch = campaign(20, 1000), 0, 0, 0
    faults = tuple(fault for fault in FAULTS if fault != "changed etag")
    while injected < goal:
        server.plan = FaultPlan(rate=0.25, faults=faults, slow=0.05, seed=epoch)
        fetch: Any = ("auto", "range", "shard")[epoch % 3]
        storage = ("source", "raw")[epoch // 3 % 2]
        with Loader(uploaded[storage], fetch=fetch, cache=tmp_path / f"{epoch}", **OPTIONS) as loader:
            assert batches(loader) == local(storage)
            reported += sum(loader.retries.values())
        harmless = server.plan.injected["slow start"]  # nothing fails
        injected += server.plan.injected.total() - harmless
        shutil.rmtree(tmp_path / f"{epoch}")
        epoch += 1
    assert reported == injected


def test_a_store_that_is_gone(server: FaultProxy, uploaded: dict[str, str], tmp_path: Path) -> None:
    """It is not a sample's damage, even where damaged samples may be replaced."""
    with Loader(uploaded["source"], fetch="range", cache=tmp_path, on_error="replace", **OPTIONS) as loader:
        server.plan = FaultPlan(rate=1, faults=("503",))
        with pytest.raises(StoreError, match=r"train-00000\d.tar cannot be reached.*status 503"):
            batches(loader)
        assert not loader.damaged
        server.plan = FaultPlan()
        assert len(batches(loader)) == len(loader)


def replaced(folder: Path, out: str, change: Callable[[Path], None], tmp_path: Path) -> str:
    """Upload a set, one tar of which ``change`` has changed, and return its address."""
    copy = tmp_path / "changed"
    shutil.copytree(folder, copy)
    change(copy)
    store = open_store(f"s3://{BUCKET}/{out}")
    for path in copy.iterdir():
        store.put(path.name, path)
    return store.address


def flip(position: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        row = ShardSet.open(folder).split("train").table[0]
        with (folder / "train-000000.tar").open("r+b") as file:
            file.seek(int(row["image_offset"]) + position)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 4]))

    return change


@pytest.mark.parametrize("fetch", ["range", "shard"])
def test_damage_in_the_store_is_a_samples(
    server: FaultProxy, sets: dict[str, Path], tmp_path: Path, fetch: Any
) -> None:
    address = replaced(sets["source"], f"flipped-{fetch}", flip(40), tmp_path)
    with (
        Loader(address, fetch=fetch, cache=tmp_path / "cache", **OPTIONS) as loader,
        pytest.raises(SampleError, match=rf"{address}/train-000000.tar: .*sample 0 of train.*do not match"),
    ):
        batches(loader)
    with Loader(address, fetch=fetch, cache=tmp_path / "cache", on_error="replace", **OPTIONS) as loader:
        assert len(batches(loader)) == len(loader)
        assert list(loader.damaged) == [0]


@pytest.mark.parametrize("fetch", ["range", "shard"])
def test_a_changed_object_is_named(server: FaultProxy, sets: dict[str, Path], tmp_path: Path, fetch: Any) -> None:
    address = replaced(sets["source"], f"changed-{fetch}", lambda folder: None, tmp_path)
    options = {**OPTIONS, "shuffle": False, "augment": None, "prefetch": 1, "batch_size": 1}
    with Loader(address, fetch=fetch, cache=tmp_path / "cache", cache_bytes=1 << 20, **options) as loader:
        remote = loader.split.remote
        assert remote is not None
        remote.hold([0], [0])
        store = open_store(address)
        old = store.status("train-000000.tar")
        flip(40)(tmp_path / "changed")
        store.put("train-000000.tar", tmp_path / "changed/train-000000.tar")
        new = store.status("train-000000.tar")
        shutil.rmtree(tmp_path / "cache")
        remote.close()
        with pytest.raises(ObjectChangedError) as caught:
            batches(loader)
        for part in (f"{address}/train-000000.tar", old.stamp, new.stamp):
            assert part in str(caught.value)


def test_an_object_of_another_size_is_named(server: FaultProxy, sets: dict[str, Path], tmp_path: Path) -> None:
    def grow(folder: Path) -> None:
        with (folder / "train-000000.tar").open("ab") as file:
            file.write(bytes(512))

    address = replaced(sets["source"], "longer", grow, tmp_path)
    with (
        Loader(address, fetch="range", cache=tmp_path / "cache", **OPTIONS) as loader,
        pytest.raises(FormatError, match=r"longer/train-000000.tar has \d+ bytes, the manifest says \d+"),
    ):
        batches(loader)


def test_a_damaged_table_is_named(server: FaultProxy, sets: dict[str, Path], tmp_path: Path) -> None:
    def change(folder: Path) -> None:
        path = folder / "train.samples.npy"
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")

    address = replaced(sets["source"], "table", change, tmp_path)
    with pytest.raises(FormatError, match=r"table/train.samples.npy is damaged: its SHA-256"):
        Loader(address, cache=tmp_path / "cache", **OPTIONS)


def files_in(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()]


@pytest.mark.parametrize("fetch", ["range", "shard"])
def test_damage_in_the_cache_is_repaired(
    server: FaultProxy, uploaded: dict[str, str], local: Any, tmp_path: Path, fetch: Any
) -> None:
    for damage in ("flip", "truncate", "remove"):
        with Loader(uploaded["source"], fetch=fetch, cache=tmp_path, **OPTIONS) as loader:
            assert batches(loader) == local("source")
        tars = [path for path in files_in(tmp_path) if path.stat().st_size > 20_000]
        assert tars
        for path in tars:
            content = bytearray(path.read_bytes())
            content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
            path.write_bytes(content if damage == "flip" else content[:1000])
            if damage == "remove":
                path.unlink()
    with Loader(uploaded["source"], fetch=fetch, cache=tmp_path, **OPTIONS) as loader:
        assert batches(loader) == local("source")
        assert not loader.damaged


def test_a_small_cache_is_enough(server: FaultProxy, sets: dict[str, Path], uploaded: dict[str, str], local: Any,
                                 tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """What is not in use makes room for what is; other people's files are left alone."""
    monkeypatch.setattr("shards.store.remote.content_cache.LEAST_BYTES", 1)
    largest = max(path.stat().st_size for path in sets["source"].glob("*.tar"))
    total = sum(path.stat().st_size for path in sets["source"].glob("train*"))
    bound = total * 3 // 4
    assert largest < bound
    options = {**OPTIONS, "batch_size": 1, "prefetch": 1, "threads": 1}
    foreign = tmp_path / "ab/notes.txt"
    foreign.parent.mkdir()
    foreign.write_bytes(bytes(bound))
    with Loader(uploaded["source"], fetch="range", cache=tmp_path, cache_bytes=bound, **options) as loader:
        assert batches(loader, 3) == local("source", 3, batch_size=1)
        assert ContentCache(tmp_path, 0).used_bytes() <= bound + largest
    assert foreign.exists()
    assert server.plan.requests["GET"] > 40


def test_a_shard_that_does_not_fit(
    server: FaultProxy, sets: dict[str, Path], uploaded: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shards.store.remote.content_cache.LEAST_BYTES", 1)
    with (
        Loader(uploaded["source"], fetch="shard", cache=tmp_path, cache_bytes=9_000, **OPTIONS) as loader,
        pytest.raises(
            PetsegError, match=r"more than the 9000 that the cache .* may hold: give more with --cache-bytes"
        ),
    ):
        batches(loader)


def test_a_full_disk(server: FaultProxy, uploaded: dict[str, str], local: Any, tmp_path: Path,
                     monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    real, full = os.pwrite, [True]

    def pwrite(descriptor: int, data: Any, offset: int) -> int:
        if full[0] and len(data) > 1000:
            raise OSError(28, "No space left on device")
        return real(descriptor, data, offset)

    with Loader(uploaded["source"], fetch="range", cache=tmp_path, **OPTIONS) as loader:
        monkeypatch.setattr(os, "pwrite", pwrite)
        with pytest.raises(PetsegError, match=r"the cache .* cannot be used: No space left.*free some space"):
            batches(loader)
        full[0] = False
        loader.set_epoch(0)
        assert batches(loader) == local("source")


PROGRAM = """
import os, sys, threading
from pipeline import Loader
from shards.store.remote import content_cache
address, cache, fetch, die = sys.argv[1:]
count, real = [0], os.pwrite
def pwrite(*arguments):
    count[0] += 1
    if count[0] == int(die):
        os.kill(os.getpid(), 9)
    return real(*arguments)
os.pwrite = pwrite
with Loader(address, split="train", batch_size=4, size=32, device="cpu", seed=5, cache=cache, fetch=fetch) as loader:
    print(sum(int(batch.image.sum()) for batch in loader))
"""


@pytest.mark.faults
def test_killed_processes_and_two_loaders_lose_nothing(
    server: FaultProxy, uploaded: dict[str, str], local: Any, tmp_path: Path, campaign: Callable[[int, int], int]
) -> None:
    """Two processes on one cache at a time, one of which is killed while it writes."""
    for number in range(campaign(1, 20)):
        for fetch in ("range", "shard"):
            arguments = [sys.executable, "-c", PROGRAM, uploaded["source"], str(tmp_path / f"{number}"), fetch]
            running = [
                subprocess.Popen([*arguments, str(die)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                for die in (1 + 3 * number, 0)
            ]
            outputs = [process.communicate(timeout=120) for process in running]
            assert [process.returncode for process in running] == [-9, 0], outputs
            with Loader(uploaded["source"], fetch="range", cache=tmp_path / f"{number}", **OPTIONS) as loader:
                assert batches(loader) == local("source")
                assert not loader.damaged


def test_a_web_server(sets: dict[str, Path], local: Any, tmp_path: Path) -> None:
    with range_server(sets["source"].parent) as url:
        address = f"{url}/{sets['source'].name}"
        for fetch in ("range", "shard"):
            options: dict[str, Any] = {**OPTIONS, "fetch": fetch}
            with Loader(address, cache=tmp_path / fetch, **options) as loader:
                assert batches(loader) == local("source")


def test_more_shards_than_may_be_open(
    server: FaultProxy, uploaded: dict[str, str], local: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.io.tar_files.MAX_OPEN_FILES", 2)
    monkeypatch.setattr("shards.store.remote.cached_tars.MOST_OPEN", 2)
    with Loader(uploaded["raw"], fetch="range", cache=tmp_path, **OPTIONS) as loader:
        assert batches(loader, 2) == local("raw", 2)


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert open_cache(None, None).folder == tmp_path / "x/petseg"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert open_cache(None, "2GB") == ContentCache(tmp_path / "home/.cache/petseg", 2_000_000_000)
    free = shutil.disk_usage(tmp_path).free
    assert free // 3 < open_cache(tmp_path, None).most_bytes <= free * 2 // 3

    def no_home() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(PetsegError, match="no home folder to cache a remote set in; give one with --cache DIR"):
        open_cache(None, None)
    (tmp_path / "file").touch()
    with pytest.raises(PetsegError, match="cannot be used: Not a directory"):
        open_cache(tmp_path / "file/cache", None)
    with pytest.raises(UsageError, match="--cache-bytes 7 is too small"):
        open_cache(tmp_path, 7)


def test_what_needs_a_folder_says_so(server: FaultProxy, uploaded: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"{uploaded['source']} is not in a local folder.*petseg-shard copy"):
        ShardSet.open(uploaded["source"], cache=tmp_path).webdataset("train")
    with pytest.raises(FormatError, match=r"s3://bucket/none holds no finished shard set"):
        ShardSet.open(f"s3://{BUCKET}/none", cache=tmp_path)


def test_a_split_is_read_by_sample(
    server: FaultProxy, sets: dict[str, Path], uploaded: dict[str, str], tmp_path: Path
) -> None:
    here = ShardSet.open(sets["source"]).split("train")
    there = ShardSet.open(uploaded["source"], cache=tmp_path).split("train")
    for index in range(len(here)):
        assert there.read(index, "image") == here.read(index, "image")
        assert there.meta(index) == here.meta(index)
        assert there.key(index) == here.key(index)
    assert there.find(here.key(2)) == 2
