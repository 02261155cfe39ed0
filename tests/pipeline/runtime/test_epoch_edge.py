"""Prefetching across the end of an epoch: faster, and otherwise as if every epoch were started by itself."""

from __future__ import annotations

import gc
import hashlib
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from waiting import wait_until

from pipeline import Batch, Loader
from pipeline.io.damage import DamagedSamples
from pipeline.order.permutation import permutation
from pipeline.workers.process_engine import ProcessEngine
from shards.errors import SampleError

# Prepared by threads, by threads and a device, and by worker processes.
COMBINATIONS = [("jpeg", "torch"), ("source", "dali"), ("raw", "processes")]
BATCHES = 4  # of 12 samples, of 40 samples
known_epochs: dict[str, list[Any]] = {}  # by what the loader says of itself


@pytest.fixture(params=COMBINATIONS, ids="-".join)
def make(request: pytest.FixtureRequest, sets: dict[str, Path], with_engine: Any) -> Iterator[Callable[..., Loader]]:
    storage, engine = request.param
    made: list[Loader] = []

    def loader(**options: Any) -> Loader:
        size = 96 if engine == "processes" else 32  # as stored: to shrink images, workers import torch
        defaults: dict[str, Any] = {"batch_size": 12, "size": size, "device": "cpu", "engine": engine, "seed": 5}
        made.append(Loader(sets[storage], **with_engine(defaults | {"augment": "train", "threads": 2} | options)))
        return made[-1]

    yield loader
    for one in made:
        one.close()


def digest(batch: Batch) -> tuple[Any, ...]:
    pixels = hashlib.sha256(batch.image.contiguous().numpy().tobytes() + batch.mask.numpy().tobytes()).hexdigest()
    return batch.epoch, batch.number, tuple(batch.index.tolist()), tuple(batch.valid.tolist()), pixels


def digests(loader: Loader) -> list[tuple[Any, ...]]:
    return [digest(batch) for batch in loader]


def works_prepared(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The samples of each batch that the loader's engine prepares from now on."""
    seen: list[list[int]] = []
    prepare = loader._engine.prepare

    def watched(work: Any) -> Any:
        seen.append(work.indices.tolist())
        return prepare(work)

    monkeypatch.setattr(loader._engine, "prepare", watched)
    return seen


def memory_asked_for(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each piece of memory that the loader asks the system for, from now on, to put batches into."""
    asked: list[int] = []
    shapes = loader._plan.options.batch_shapes
    empty, allocate = np.empty, os.posix_fallocate

    def watched_empty(shape: Any, *args: Any, **kwargs: Any) -> Any:
        if shape in shapes:
            asked.append(math.prod(shape))
        return empty(shape, *args, **kwargs)

    def watched_allocate(descriptor: int, offset: int, length: int) -> None:
        asked.append(length)
        allocate(descriptor, offset, length)

    monkeypatch.setattr(np, "empty", watched_empty)
    monkeypatch.setattr(os, "posix_fallocate", watched_allocate)
    return asked


def test_the_next_epoch_is_started_while_the_last_batch_is_in_use(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = make()
    prepared = works_prepared(loader, monkeypatch)
    batches = iter(loader)
    for _ in range(BATCHES):
        next(batches)
    wait_until(lambda: len(prepared) >= BATCHES + 2)
    assert sorted(prepared[BATCHES : BATCHES + 2]) == sorted(
        permutation(5, 1, 40)[start : start + 12].tolist() for start in (0, 12)
    )
    assert loader.epoch == 0


def test_the_state_at_the_edge_counts_what_was_delivered(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [entry for loader in (make(),) for _ in range(3) for entry in digests(loader)]
    loader = make(prefetch=4)
    prepared = works_prepared(loader, monkeypatch)
    batches = iter(loader)
    got = [digest(next(batches)) for _ in range(BATCHES)]
    wait_until(lambda: len(prepared) >= BATCHES + 4)
    last = loader.state_dict()
    assert next(batches, None) is None
    ended = loader.state_dict()
    assert (last["epoch"], last["batch"]) == (ended["epoch"], ended["batch"]) == (1, 0)
    for state in (last, ended):
        other = make(prefetch=1, threads=1)
        other.load_state_dict(json.loads(json.dumps(state)))
        assert got + digests(other) + digests(other) == wanted
    loader.load_state_dict(ended)  # where it stands already
    assert got + digests(loader) + digests(loader) == wanted


@pytest.mark.parametrize("taken", [0, 1, BATCHES - 1, BATCHES])
def test_going_elsewhere_from_the_edge(make: Any, taken: int) -> None:
    """Whatever an iteration was left at, the next one is the epoch, or the rest of one, that was asked for."""
    whole = make()
    if whole.processes and taken != BATCHES - 1:
        pytest.skip("starting processes takes time; once is enough")
    if (kind := repr(whole)) not in known_epochs:
        known_epochs[kind] = [digests(whole) for _ in range(4)]
    epochs = known_epochs[kind]
    middle = whole.state_dict() | {"epoch": 3, "batch": 2}
    ways: list[tuple[Callable[[Loader], None], list[Any]]] = [
        (lambda loader: loader.set_epoch(1), epochs[1]),
        (lambda loader: loader.set_epoch(2), epochs[2]),
        (lambda loader: loader.set_epoch(0), epochs[0]),
        (lambda loader: loader.load_state_dict(middle), epochs[3][2:]),
        (lambda loader: None, epochs[0]),
    ]
    loader = make()
    for go, wanted in ways:
        if loader.engine == "torch" and not loader.processes:
            loader = make()  # the others take time to start
        loader.set_epoch(0)
        for _, _ in zip(range(taken), loader, strict=False):
            pass
        go(loader)
        assert digests(loader) == wanted
        assert digests(loader) == epochs[wanted[0][0] + 1] if wanted[0][0] < 3 else True


def test_what_was_prefetched_is_used(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three epochs, the next one announced by set_epoch as a trainer does: no batch is made twice."""
    loader = make()
    prepared = works_prepared(loader, monkeypatch)
    for epoch in range(3):
        loader.set_epoch(epoch)
        list(loader)
    assert len(prepared) <= 3 * BATCHES + loader.prefetch + 1
    wanted = [permutation(5, epoch, 40)[start : start + 12].tolist() for epoch in range(3) for start in (0, 12, 24)]
    assert all(prepared.count(batch) == 1 for batch in wanted)


def test_evaluation_reads_on_from_its_second_pass(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass may be all that is wanted. Passes in the stored order are alike, whatever their numbers."""
    loader = make(shuffle=False, augment=None)
    prepared = works_prepared(loader, monkeypatch)
    first = digests(loader)
    time.sleep(0.1)
    assert len(prepared) == BATCHES
    for count in range(2, 5):
        loader.set_epoch(0)
        assert digests(loader) == first
        wait_until(lambda count=count: len(prepared) >= count * BATCHES + 2)  # type: ignore[misc]
    assert len(prepared) <= 4 * BATCHES + loader.prefetch + 1
    loader.set_epoch(7)
    assert {entry[0] for entry in digests(loader)} == {7}
    assert loader.epoch == 8


def fail_in_epoch_1(loader: Loader, monkeypatch: pytest.MonkeyPatch, number: int) -> int:
    """Let the first sample of a batch of epoch 1 be damaged, and no other; return it."""
    bad = int(permutation(5, 1, 40)[number * 12])
    batch = permutation(5, 1, 40)[number * 12 : number * 12 + 12]
    prepare = loader._engine.prepare

    def damaged_once(work: Any) -> Any:
        if np.array_equal(work.indices, batch):
            raise DamagedSamples({0: f"sample {bad} is bad"})
        return prepare(work)

    monkeypatch.setattr(loader._engine, "prepare", damaged_once)
    return bad


@pytest.mark.parametrize("number", [0, 1])
def test_damage_in_the_next_epoch_stops_that_one(make: Any, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    loader = make(prefetch=4)
    fail_in_epoch_1(loader, monkeypatch, number)
    for batch in loader:
        time.sleep(0.02)  # all that may be read ahead is
        assert batch.epoch == 0
    assert loader.epoch == 1
    batches = iter(loader)
    for expected in range(number):
        assert next(batches).number == expected
    with pytest.raises(SampleError, match="is bad"):
        next(batches)
    assert (loader.state_dict()["epoch"], loader.state_dict()["batch"]) == (1, number)


@pytest.mark.parametrize("number", [0, 1])
def test_damage_in_the_next_epoch_is_counted_there(
    make: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    loader = make(prefetch=4, on_error="replace", max_damaged=1)
    bad = fail_in_epoch_1(loader, monkeypatch, number)
    for _ in loader:
        time.sleep(0.02)
        assert not loader.damaged
    time.sleep(0.05)
    assert not loader.damaged
    assert not caplog.messages
    for batch in loader:
        assert list(loader.damaged) == ([bad] if batch.number >= number else [])
        assert (bad in batch.index[batch.valid].tolist()) is False
    assert len(caplog.messages) == 1


def test_a_budget_is_used_up_in_the_order_of_delivery(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage ahead, in an epoch that is never begun, takes nothing from the budget."""
    loader = make(prefetch=4, on_error="replace", max_damaged=0)
    fail_in_epoch_1(loader, monkeypatch, 0)
    for _ in range(3):
        loader.set_epoch(0)
        assert len(list(loader)) == BATCHES
        time.sleep(0.02)
    with pytest.raises(SampleError, match="more than max_damaged=0"):
        list(loader)


@pytest.mark.parametrize(("end", "taken"), [("close", 1), ("close", BATCHES + 1), ("drop", 1), ("drop", BATCHES)])
def test_nothing_is_left_behind(make: Any, lent_buffers: Any, end: str, taken: int) -> None:
    """Closed, or merely dropped: no thread of ours stays, and no buffer."""
    gc.collect()
    before = set(threading.enumerate())

    def ours() -> list[threading.Thread]:
        return [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("petseg")]

    made = make.__closure__[1].cell_contents if end == "drop" else None
    loader = make()
    if loader.processes:
        pytest.skip("without threads; for processes there are tests of their own")
    for number, _ in enumerate(loader, start=1):
        if number == taken:
            break
    assert ours()
    if end == "close":
        loader.close()
        assert not ours()
        return
    assert made is not None
    made.clear()
    del loader, _
    gc.collect()
    wait_until(lambda: not ours())
    gc.collect()
    assert not lent_buffers.alive()


@pytest.mark.parametrize("prefetch", [1, 3])
def test_memory_stays_within_what_is_reported(make: Any, lent_buffers: Any, prefetch: int) -> None:
    """A slow caller, several epochs, the edges too: never more buffers than the loader says, and no fewer in use."""
    held = lent_buffers.held
    loader = make(prefetch=prefetch, threads=3)
    if loader.buffer_bytes is None or loader.processes:
        pytest.skip("this engine's memory is DALI's, or shared, for which there is a test of its own")

    for _ in range(3):
        for _ in loader:
            time.sleep(0.03)
            assert held() <= loader.buffer_bytes
        time.sleep(0.05)
        assert held() <= loader.buffer_bytes
    each = loader.buffer_bytes // (prefetch + 3)
    wait_until(lambda: held() >= (prefetch + 2) * each)


def test_a_stream_that_is_dropped_leaves_its_memory_to_the_next(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs run in any order drop what was read ahead, every time: no memory is asked for again."""
    loader = make(prefetch=3, threads=3)
    if loader.buffer_bytes is None:
        pytest.skip("this engine's memory is DALI's")
    asked = memory_asked_for(loader, monkeypatch)
    for epoch in (5, 3, 1, 4, 2, 6, 8, 0, 7):
        loader.set_epoch(epoch)
        for batch in loader:
            if batch.number == 1:
                break
        if loader.processes:  # a slow worker has memory until it has replied
            cast(ProcessEngine, loader._engine)._pool.wait_for_room(0, 60)  # type: ignore[union-attr]
        else:
            time.sleep(0.02)  # for all that may be made ahead
    assert 0 < sum(asked) <= loader.buffer_bytes
