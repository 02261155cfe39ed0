"""Opening a set takes constant time and memory, whatever the number of samples and shards."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from scale_benchmark import READ_TABLES, probe
from scale_set import write_scale_set

from pipeline import Loader
from shards.format.dataset import ShardSet
from shards.format.manifest import FileEntry, Manifest, SplitEntry
from shards.format.npy import ShardEntry
from shards.verify.check_set import verify

SAMPLES, EACH = 10_000_000, 64  # 156,250 shards, twice as many files


@pytest.fixture(scope="module")
def ten_million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of ten million samples; of the tars only the first and the last exist, and the table is a sparse file."""
    folder = tmp_path_factory.mktemp("ten million")
    write_scale_set(folder, samples=SAMPLES, each=EACH, tables_only=True)
    return folder


@pytest.mark.parametrize("shuffle", ["global", "block"])
def test_ten_million_samples_open_at_once(ten_million: Path, shuffle: str) -> None:
    """Manifest, table of shards, an order, records of 32 samples, members of the first and the last."""
    found = probe(ten_million, READ_TABLES, shuffle)
    assert found["seconds"] < 1.0, found
    assert found["imports_mb"] + found["mb"] < 200, found


def test_the_manifest_does_not_grow(ten_million: Path) -> None:
    assert (ten_million / "manifest.json").stat().st_size < 5_000
    assert (ten_million / "train.shards.npy").stat().st_size == 256 + 88 * 156_250


def test_quick_verification_does_not_read_the_table(tmp_path: Path) -> None:
    """Nearly all of 2,000 tars are missing, which it must say, but not each."""
    write_scale_set(tmp_path, samples=SAMPLES, each=5000, tables_only=True)
    report = verify(tmp_path, mode="quick")
    assert report.samples == SAMPLES
    assert {problem.kind for problem in report.problems} == {"missing"}
    assert (len(report.problems), report.dropped) == (1000, 2 * 1998 - 1000)


def test_a_scale_set_is_a_set(tmp_path: Path) -> None:
    """What the benchmark writes by the thousand is what any reader reads, to the byte."""
    write_scale_set(tmp_path, samples=700, each=300)
    report = verify(tmp_path, mode="full")
    assert report.ok, report.text()
    reader = ShardSet.open(tmp_path).split("train")
    assert [reader.key(index) for index in (0, 299, 300, 699)] == [
        "s000000000",
        "s000000299",
        "s000000300",
        "s000000699",
    ]
    with Loader(tmp_path, batch_size=32, device="cpu", shuffle="block", shuffle_window=2) as loader:
        indices = np.concatenate([batch.index[batch.valid].numpy() for batch in loader])
    assert np.array_equal(np.sort(indices), np.arange(700))


def test_structs_are_immutable() -> None:
    assert all(issubclass(struct, msgspec.Struct) for struct in (Manifest, SplitEntry, ShardEntry, FileEntry))
    with pytest.raises(AttributeError):
        FileEntry(file="x", bytes=0, sha256="0" * 64).bytes = 1  # type: ignore[misc]
