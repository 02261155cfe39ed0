"""Samples that are prepared in threads: the same, in order, and few of them in flight."""

from __future__ import annotations

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from shard_sources import Maker, fill, options, tree

from shards.audit import transcode
from shards.build import write_shard
from shards.build.build_set import build
from shards.build.plan import ShardTask, make_plan
from shards.build.write_shard import PreparedSample, prepared_samples
from shards.errors import SourceError
from shards.sources import scan


def task_of(folder: Path, storage: str = "source") -> ShardTask:
    chosen = options(storage, split="random", fractions=(1, 0, 0), samples_per_shard=99)
    return make_plan(scan(folder), chosen).tasks[0]


@pytest.fixture
def mixed(maker: Maker) -> Path:
    """Thirty pairs, every fifth image broken."""
    for number in range(30):
        kind = b"broken" if number % 5 == 3 else None
        maker.add(f"a_{number}", image=kind)
    return maker.folder


@pytest.mark.parametrize("storage", ["source", "jpeg", "raw"])
def test_threads_change_nothing(mixed: Path, storage: str) -> None:
    task = task_of(mixed, storage)
    alone = list(prepared_samples(task, threads=lambda: 1))
    assert [prepared.sample for prepared in alone] == list(task.samples)
    assert any(prepared.encoded is None for prepared in alone)
    for threads in (2, 3, 99):
        assert list(prepared_samples(task, threads=lambda threads=threads: threads)) == alone  # type: ignore[misc]


def test_threads_that_come_and_go(mixed: Path) -> None:
    task = task_of(mixed)
    numbers = iter([1, 1, 3, 3, 1, 1, 2, 8, 1] * 9)
    alone = list(prepared_samples(task, threads=lambda: 1))
    assert list(prepared_samples(task, threads=lambda: next(numbers))) == alone


def test_one_thread_means_the_callers_own_and_more_are_used(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    real = write_shard.prepare

    def noted(*arguments: object) -> PreparedSample:
        seen.add(threading.current_thread().name)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(write_shard, "prepare", noted)
    list(prepared_samples(task_of(pets), threads=lambda: 1))
    assert seen == {threading.current_thread().name}
    seen.clear()
    list(prepared_samples(task_of(pets), threads=lambda: 3))
    assert 2 <= len(seen) <= 4
    assert threading.current_thread().name not in seen


def test_few_samples_are_in_flight(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    real = write_shard.prepare
    monkeypatch.setattr(write_shard, "prepare", lambda *arguments: (started.append(1), real(*arguments))[1])
    most = 0
    for taken, _ in enumerate(prepared_samples(task_of(pets), threads=lambda: 3)):
        most = max(most, len(started) - taken)
    assert 2 <= most <= 4


def test_an_error_comes_in_its_turn_and_ends_the_threads(pets: Path) -> None:
    task = task_of(pets)
    Path(task.samples[10].pair.mask).unlink()
    prepared = prepared_samples(task, threads=lambda: 4)
    assert [next(prepared).sample for _ in range(10)] == list(task.samples[:10])
    with pytest.raises(SourceError, match=f"{task.samples[10].pair.name}.png vanished"):
        next(prepared)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prepare")]


def test_more_workers_than_shards_make_the_same_set(maker: Maker, tmp_path: Path) -> None:
    """One large shard and a small one for five processes: most cores help as threads."""
    fill(maker, 60)
    chosen = options(split="random", fractions=(0.9, 0.1, 0), samples_per_shard=100)
    for workers in (1, 5):
        build(maker.folder, tmp_path / str(workers), chosen, workers=workers)
    assert tree(tmp_path / "1") == tree(tmp_path / "5")


def test_pillow_in_threads_keeps_the_warning_filters(maker: Maker, recwarn: pytest.WarningsRecorder) -> None:
    """Pillow's warnings are silenced for the process, which threads share."""
    filters = list(warnings.filters)
    maker.add("a_1")
    data = Path(maker.folder / "annotations" / "trimaps" / "a_1.png").read_bytes()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: transcode.open_file(data, what="mask"), range(300)))
    assert list(warnings.filters) == filters
