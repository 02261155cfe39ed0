"""The parts of the worker pool: shared memory, messages, and a worker that replies to anything."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

if not hasattr(os, "memfd_create"):
    pytest.skip("worker processes need Linux", allow_module_level=True)

from pipeline.engine import WORK_DTYPE, BatchWork, EngineOptions
from pipeline.io.members import MemberReader
from pipeline.order.augmentation import Parameters, draw_parameters
from pipeline.workers.protocol import (
    MAX_MESSAGE,
    REPLY,
    BatchReport,
    WorkerSetup,
    read_work,
    reply_messages,
    slot_shapes,
    write_work,
)
from pipeline.workers.shared_memory import SharedPool, SlotMap, arena_of
from pipeline.workers.worker_main import BatchWorker
from shards.format.dataset import ShardSet
from shards.format.layout import SAMPLE_DTYPE


@given(st.integers(0, 10**6))
def test_every_slot_is_in_one_arena(slot: int) -> None:
    first, slots = arena_of(slot)
    assert first <= slot < first + slots
    assert arena_of(first) == arena_of(first + slots - 1) == (first, slots)
    assert arena_of(first + slots)[0] == first + slots


def test_slots_do_not_overlap_and_two_maps_see_the_same() -> None:
    shapes = ((3, 5), (7,))
    pool = SharedPool(shapes, spare=2)
    lent = [pool.take() for _ in range(30)]
    for slot, arrays in lent:
        for array in arrays:
            array[:] = slot
    other = SlotMap(pool.descriptor, shapes)
    assert sorted(slot for slot, _ in lent) == list(range(30))
    for slot, arrays in lent:
        assert [array.shape for array in arrays] == list(shapes)
        for ours, theirs in zip(arrays, other.arrays(slot), strict=True):
            assert (ours == slot).all()
            assert (theirs == slot).all()


def test_a_slot_comes_back_with_its_last_array() -> None:
    pool = SharedPool(((4,), (4,)), spare=4)
    slot, (first, second) = pool.take()
    tensors = [torch.from_numpy(first), torch.from_numpy(second)]  # they hold the arrays that were lent
    del first, second
    assert pool.take()[0] != slot
    del tensors[0]
    assert pool.take()[0] != slot
    del tensors[0]
    assert pool.take()[0] == slot


@given(st.integers(0, 40), st.integers(0, 2**32))
def test_work_crosses_unchanged(count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = np.frombuffer(random.bytes(count * SAMPLE_DTYPE.itemsize), dtype=SAMPLE_DTYPE)
    floats = [random.random(count, dtype=np.float32) for _ in range(3)]
    parameters = Parameters(
        boxes=random.integers(-9, 9, (count, 4), dtype=np.int32),
        places=random.integers(-9, 9, (count, 4), dtype=np.int32),
        flip=random.random(count) < 0.5,
        brightness=floats[0],
        contrast=floats[1],
        saturation=floats[2],
    )
    work = BatchWork.of(indices=random.integers(0, 2**60, count), rows=rows, parameters=parameters)
    memory = np.empty(40 * WORK_DTYPE.itemsize, dtype=np.uint8)
    write_work(work, memory)
    got = read_work(memory, count)
    assert got.indices.tolist() == work.indices.tolist()
    assert got.rows.tobytes() == rows.tobytes()
    for name, value in vars(parameters).items():
        found = getattr(got.parameters, name)
        assert found.dtype == value.dtype
        assert np.array_equal(found, value)


@given(st.integers(0, 2**40), st.none() | st.integers(0, 200_000))
def test_long_answers_come_in_parts(slot: int, length: int | None) -> None:
    report = BatchReport() if length is None else BatchReport(damaged={7: "x" * length})
    messages = reply_messages(slot, report)
    heads = [REPLY.unpack_from(message) for message in messages]
    assert max(map(len, messages)) <= MAX_MESSAGE
    assert heads == [(slot, True)] * (len(messages) - 1) + [(slot, False)]
    said = b"".join(message[REPLY.size :] for message in messages)
    assert (pickle.loads(said) if said else BatchReport()) == report


def test_a_worker_answers_whatever_it_is_asked(sets: dict[str, Path]) -> None:
    split = ShardSet.open(sets["raw"]).split("train")
    options = EngineOptions(
        storage="raw",
        stored_size=(96, 96),
        size=(96, 96),
        fit="stretch",
        classes=3,
        onehot=True,
        augment=None,
        batch_size=4,
        threads=2,
        prefetch=2,
    )
    pool = SharedPool(slot_shapes(options), spare=1)
    worker = BatchWorker(WorkerSetup(split=split, options=options), pool.descriptor)
    slot, (images, _, records) = pool.take()
    work = _work(split, range(4))
    work.rows["image_crc32"][2] ^= 1
    write_work(work, records)
    damaged = worker.make(slot=slot, count=4, generation=0)
    assert list(damaged.damaged) == [2]
    assert "pet_2" in damaged.damaged[2]
    write_work(_work(split, range(4)), records)
    assert worker.make(slot=slot, count=4, generation=1) == BatchReport()
    assert images.any()
    records[:] = 255  # no work at all
    failure = worker.make(slot=slot, count=4, generation=1)
    assert failure.damaged or failure.error
    failure = worker.make(slot=10**6, count=4, generation=1)  # beyond the file
    assert "a worker process of the loader failed: " in failure.error


def _work(split: Any, indices: range) -> BatchWork:
    numbers = np.array(indices)
    sizes = np.full(len(numbers), 96)
    parameters = draw_parameters(None, seed=0, epoch=0, indices=numbers, heights=sizes, widths=sizes, size=(96, 96))
    return BatchWork.of(indices=numbers, rows=split.rows(numbers).copy(), parameters=parameters)


def test_tars_that_change_raise_the_generation(make_set: Callable[..., Path]) -> None:
    folder = make_set(10, storage="raw", size=48)
    split = ShardSet.open(folder).split("train")
    reader = MemberReader(split)
    reader.files.watch(split.rows(range(10)))
    assert not reader.files.drop_changed()
    assert reader.files.generation == 0
    tar = sorted(folder.glob("*.tar"))[0]
    tar.with_suffix(".new").write_bytes(tar.read_bytes())
    tar.with_suffix(".new").replace(tar)
    assert reader.files.drop_changed()
    assert reader.files.generation == 1
    reader.files.close()
