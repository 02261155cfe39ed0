"""Fixtures of builds by tasks: a source with an empty shard, its set, a store in memory, servers of S3 and Google's."""

from __future__ import annotations

import sys
from pathlib import Path

import google_server
import pytest
import store_servers
from shard_sources import Maker, options, tree

from shards.build.build_set import build
from shards.build.options import PackOptions

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode does not
from memory_store import MemoryStore


class Files(dict[str, bytes]):
    """Contents by name, with a short text for the reports of failed examples."""

    def __repr__(self) -> str:
        return f"<{len(self)} files>"


running_server = store_servers.running_server
server = store_servers.server
running_google = google_server.running_google
google = google_server.google


@pytest.fixture(scope="session")
def chosen() -> PackOptions:
    return options(split="random", fractions=(0.5, 0.2, 0.3), samples_per_shard=2)


@pytest.fixture(scope="session")
def gappy(tmp_path_factory: pytest.TempPathFactory, chosen: PackOptions) -> Path:
    """Eleven tiny pairs; all images of the first training shard are broken, so that the next ones change names."""
    maker = Maker(tmp_path_factory.mktemp("gappy") / "pets")
    for number in range(11):
        maker.add(f"a_{number}", seed=number % 10)  # a_10 is a_0: a duplicate, perhaps in another split
    from shards.build.plan import make_plan
    from shards.sources import scan

    for sample in make_plan(scan(maker.folder), chosen).tasks[0].samples:
        Path(sample.pair.image).write_bytes(b"broken")
    return maker.folder


@pytest.fixture(scope="session")
def expected(gappy: Path, chosen: PackOptions, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The set that comes out, whoever builds it."""
    out = tmp_path_factory.mktemp("expected") / "out"
    manifest = build(gappy, out, chosen, workers=1).manifest
    assert manifest.audit.reasons.keys() == {"image-unknown-format", "duplicate-across-splits"}
    return Files(tree(out))


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """What is at every address for the time of a test."""
    store = MemoryStore()
    for module in ("parts", "set_copy"):
        monkeypatch.setattr(f"shards.build.tasks.{module}.open_store", store.at)
    return store


@pytest.fixture
def unflushed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill loses nothing that was written, so nothing is flushed."""
    monkeypatch.setattr("os.fsync", lambda _: None)
