"""The sets of the loader's tests, in one server of S3."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import store_servers
from remote_sets import OPTIONS, Batches, batches
from store_servers import BUCKET, FaultPlan, FaultProxy

from pipeline import Loader
from shards.store.cloud.patience import Patience
from shards.store.open_store import open_store

running_server = store_servers.running_server


@pytest.fixture(scope="package")
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


@pytest.fixture(scope="package")
def local(sets: dict[str, Path]) -> Callable[..., Batches]:
    known: dict[str, Batches] = {}

    def load(storage: str, epochs: int = 1, **options: Any) -> Batches:
        key = f"{storage} {epochs} {options}"
        if key not in known:
            with Loader(sets[storage], **{**OPTIONS, **options}) as loader:
                known[key] = batches(loader, epochs)
        return known[key]

    return load
