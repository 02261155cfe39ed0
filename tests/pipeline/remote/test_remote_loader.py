"""Sets in an object store: the same batches as from a folder."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from remote_sets import OPTIONS, batches
from store_servers import BUCKET, FaultPlan, FaultProxy, range_server

from pipeline import Loader
from shards import ShardSet
from shards.errors import FormatError, UsageError
from shards.store.cloud.request_loop import request_loop, run
from shards.store.remote.cached_file import CachedFile
from shards.store.remote.cached_tars import CachedTars
from shards.store.remote.remote_files import FileSpec, RemoteFiles


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
    assert server.plan.requests.total() == before + 1, "all but the manifest comes from the cache"


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


@pytest.mark.parametrize("shuffle", [True, "block"])
def test_requests_follow_the_order_of_the_epochs(
    server: FaultProxy, uploaded: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shuffle: Any
) -> None:
    """Also across their ends, and before a batch is made."""
    asked: list[int] = []
    start = CachedTars.start

    def noted(self: CachedTars, shards: list[int], indices: list[int], *, whole: Any) -> None:
        asked.extend(indices)
        start(self, shards, indices, whole=whole)

    monkeypatch.setattr(CachedTars, "start", noted)
    got: list[int] = []
    with Loader(uploaded["source"], fetch="range", cache=tmp_path, shuffle=shuffle, **OPTIONS) as loader:
        for _ in range(2):
            for batch in loader:
                got += batch.index.tolist()
                assert asked[: len(got)] == got
        assert sorted(set(got)) == list(range(len(loader.split)))


def test_both_tables_come_with_one_wait(
    server: FaultProxy, uploaded: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[list[str]] = []
    together = RemoteFiles._together

    async def noted(self: RemoteFiles, specs: list[FileSpec]) -> list[CachedFile]:
        waits.append(sorted(spec.name for spec in specs))
        return await together(self, specs)

    monkeypatch.setattr(RemoteFiles, "_together", noted)
    with Loader(uploaded["jpeg"], cache=tmp_path / "cache", **OPTIONS) as loader:
        next(iter(loader))
    assert waits == [["train.samples.npy", "train.shards.npy"]]


def test_what_has_not_begun_is_given_up(server: FaultProxy, uploaded: dict[str, str], tmp_path: Path) -> None:
    """The thread of requests is busy while a sample is asked for in advance, and taken back."""
    tars = ShardSet.open(uploaded["source"], cache=tmp_path).split("train").remote
    assert tars is not None
    before = server.plan.requests.total()
    request_loop().call_soon_threadsafe(time.sleep, 0.1)
    tars.start([0], [0], whole=())
    tars.stop()
    run(asyncio.sleep(0.02))
    assert server.plan.requests.total() == before


def test_a_web_server(sets: dict[str, Path], local: Any, tmp_path: Path) -> None:
    with range_server(sets["source"].parent) as url:
        address = f"{url}/{sets['source'].name}"
        for fetch in ("range", "shard"):
            options: dict[str, Any] = {**OPTIONS, "fetch": fetch}
            with Loader(address, cache=tmp_path / fetch, **options) as loader:
                assert batches(loader) == local("source")


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
