"""Files of the cache that change under a loader, between two reads of the same samples."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from remote_sets import OPTIONS, batches
from store_servers import FaultProxy

from pipeline import Loader
from shards.format.dataset import ShardSet
from shards.store.remote.cached_file import CachedFile
from shards.store.remote.remote_files import FileSpec, RemoteFiles


def flip(path: Path) -> None:
    """Change bytes of the samples in place, as a disk or a program does that writes where it should not."""
    content = bytearray(path.read_bytes())
    content[:-100:8] = bytes(len(content[:-100:8]))
    with path.open("r+b") as file:
        file.write(content)


def truncate(path: Path) -> None:
    os.truncate(path, 1000)


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    flip(other)
    other.replace(path)


Damage = Callable[[Path], None]


@pytest.mark.parametrize(
    ("storage", "fetch", "options", "kinds"),
    [
        ("raw", "range", {}, [flip, truncate]),
        ("raw", "shard", {}, [flip, replace]),
        ("source", "range", {}, [replace]),
        ("source", "shard", {"engine": "dali"}, [flip]),
        ("jpeg", "shard", {"processes": 1}, [truncate]),
    ],
)
def test_what_changes_after_it_was_verified_is_verified_again(
    server: FaultProxy, uploaded: dict[str, str], local: Any, tmp_path: Path, storage: str, fetch: Any, options: Any,
    kinds: list[Damage]
) -> None:  # fmt: skip
    epochs = range(0, 2 * len(kinds) + 1, 2)  # what is prefetched is of others, so that nothing is read meanwhile
    with Loader(uploaded[storage], fetch=fetch, cache=tmp_path, **OPTIONS, **options) as loader:
        found = []
        for epoch, damage in zip(epochs, [None, *kinds], strict=True):
            loader.set_epoch(epoch)
            for path in list(tmp_path.rglob("*")) if damage else ():
                if path.is_file() and path.stat().st_size > 20_000:
                    damage(path)
            found += batches(loader)
        expected, each = local(storage, epochs.stop, **options), len(loader)
        assert found == [batch for epoch in epochs for batch in expected[epoch * each : (epoch + 1) * each]]
        assert not loader.damaged


def test_what_a_truncated_file_had_is_not_there(server: FaultProxy, uploaded: dict[str, str], tmp_path: Path) -> None:
    tars = ShardSet.open(uploaded["source"], fetch="range", cache=tmp_path).split("train").remote
    assert tars is not None
    held = tars.hold([0, 0], [0, 1])[0]
    os.truncate(held.path, 1000)
    held.mark(0, 0)
    held.refresh()
    assert not held.present.any()


@pytest.mark.parametrize("fetch", ["range", "shard"])
def test_what_only_others_use_is_not_verified_again(
    server: FaultProxy, uploaded: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fetch: Any
) -> None:
    """A second loader opens the same files, which says that they were used, not that they were changed."""
    with Loader(uploaded["raw"], fetch=fetch, cache=tmp_path, **OPTIONS) as loader:
        batches(loader, 2)
        with Loader(uploaded["raw"], fetch=fetch, cache=tmp_path, **OPTIONS) as other:
            batches(other)
        before = loader._reader.files.generation
        batches(loader, 2)
        assert loader._reader.files.generation == before


def test_tables_do_not_need_the_cache_once_they_are_fetched(
    server: FaultProxy, uploaded: dict[str, str], local: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be removed at any time, also just before they are read."""
    real = RemoteFiles.local_files

    def late(files: RemoteFiles, *specs: FileSpec) -> list[CachedFile]:
        found = real(files, *specs)
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        return found

    monkeypatch.setattr(RemoteFiles, "local_files", late)
    with Loader(uploaded["source"], cache=tmp_path / "cache", **OPTIONS) as loader:
        assert batches(loader) == local("source")
