"""Networks that fail, and objects that are not those of the manifest: nothing is lost, and nothing is wrong."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from remote_sets import OPTIONS, Batches, batch_bytes, batches, flip, replaced
from store_servers import FaultPlan, FaultProxy

from pipeline import Loader
from shards import ShardSet
from shards.errors import FormatError, SampleError
from shards.store.open_store import open_store
from shards.store.remote.cached_tars import CachedTars
from shards.store.store_protocol import ObjectChangedError, StoreError


def is_of_the_split(method: str, path: str) -> bool:
    return method == "GET" and "/train" in path  # what is counted until the manifest is read is lost if that fails


def opened(data: ShardSet) -> Loader:
    """A loader; a table that seems to have changed is asked for again."""
    try:
        return Loader(data, **OPTIONS)
    except ObjectChangedError:
        return opened(data)


def whole_epoch(loader: Loader) -> Batches:
    """What a loader delivers, which goes on where an object seemed to have changed."""
    found: Batches = []
    while len(found) < len(loader):
        try:
            for batch in loader:
                found.append(batch_bytes(batch))
        except ObjectChangedError:
            loader.load_state_dict(loader.state_dict())
    return found


@pytest.mark.faults
def test_faults_lose_nothing(
    server: FaultProxy,
    uploaded: dict[str, str],
    local: Any,
    tmp_path: Path,
    campaign: Callable[[int, int], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is lost, nothing is wrong, and all is reported."""

    def finish(remote: CachedTars) -> None:  # rather than give up requests, faults included
        while remote._tasks or remote._ahead or not all(begun.done() for begun in remote._begun):
            time.sleep(0.005)

    monkeypatch.setattr(CachedTars, "stop", finish)
    goal, epoch, injected, reported = campaign(20, 1000), 0, Counter[str](), Counter[str]()
    while injected.total() < goal:
        server.plan = FaultPlan(rate=0.25, slow=0.05, seed=epoch, only=is_of_the_split)
        fetch: Any = ("auto", "range", "shard")[epoch % 3]
        storage = ("source", "raw")[epoch // 3 % 2]
        data = ShardSet.open(uploaded[storage], fetch=fetch, cache=tmp_path / f"{epoch}")
        with opened(data) as loader:
            assert whole_epoch(loader) == local(storage)
            assert not loader.damaged
        del server.plan.injected["slow start"]  # nothing fails
        injected += server.plan.injected
        reported.update(data.store.failures)
        assert reported.total() == injected.total(), (epoch, sorted(reported.items()), sorted(injected.items()))
        shutil.rmtree(tmp_path / f"{epoch}")
        epoch += 1
    assert reported["another ETag"] == injected["changed etag"]


def test_a_store_that_is_gone(server: FaultProxy, uploaded: dict[str, str], tmp_path: Path) -> None:
    """It is not a sample's damage, even where damaged samples may be replaced."""
    with Loader(uploaded["source"], fetch="range", cache=tmp_path, on_error="replace", **OPTIONS) as loader:
        server.plan = FaultPlan(rate=1, faults=("503",))
        with pytest.raises(StoreError, match=r"train-00000\d.tar cannot be reached.*status 503"):
            batches(loader)
        assert not loader.damaged
        server.plan = FaultPlan()
        assert len(batches(loader)) == len(loader)


def test_failed_requests_of_worker_processes_are_counted(
    server: FaultProxy, uploaded: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache has no room for samples, so that the workers fetch them, too."""
    monkeypatch.setattr("shards.store.remote.content_cache.LEAST_BYTES", 1)
    options = {**OPTIONS, "shuffle": False, "augment": None, "processes": 1}  # nothing is made for another epoch
    with Loader(uploaded["source"], fetch="range", cache=tmp_path, cache_bytes=9_000, **options) as loader:
        server.plan = FaultPlan(rate=0.3, faults=("503",))
        assert len(batches(loader)) == len(loader)
        assert dict(loader.retries) == {"status 503": server.plan.injected.total()}


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
