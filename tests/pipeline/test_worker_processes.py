"""Batches made by processes of their own: the same batches, nothing left behind, and a clear end when one dies."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

if not hasattr(os, "memfd_create"):
    pytest.skip("workers need Linux", allow_module_level=True)

from pipeline import Batch, Loader
from pipeline.engine import IN_HAND, Options, Work
from pipeline.io.members import MemberReader
from pipeline.order.augmentation import Parameters
from pipeline.workers.process_engine import Crew, ProcessEngine
from pipeline.workers.protocol import ANSWER, MOST, RECORD, Setup, Trouble, answers, read_work, slot_shapes, write_work
from pipeline.workers.shared_memory import SharedPool, SlotMap, arena_of
from pipeline.workers.worker_main import Worker
from shards.errors import PetsegError, SampleError
from shards.format.dataset import ShardSet
from shards.format.layout import SAMPLE_DTYPE

SECONDS = 10.0  # within which whatever goes wrong must have come to an end


def digest(batch: Batch) -> tuple[Any, ...]:
    pixels = (batch.image.contiguous().numpy().tobytes(), batch.mask.numpy().tobytes())
    return (batch.epoch, batch.number, batch.index.tolist(), [hashlib.sha256(part).hexdigest() for part in pixels])


def children(pid: int | None = None) -> list[psutil.Process]:
    return [one for one in psutil.Process(pid).children() if "pipeline.workers.worker_main" in " ".join(one.cmdline())]


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


@pytest.fixture
def folder(sets: dict[str, Path]) -> Path:
    return sets["raw"]


def make(folder: Path, **options: Any) -> Loader:
    defaults: dict[str, Any] = {"batch_size": 12, "size": 40, "device": "cpu", "seed": 5, "processes": 2}
    return Loader(folder, **(defaults | options))


def epochs(loader: Loader, count: int) -> None:
    for _ in range(count):
        for _ in loader:
            pass


@pytest.mark.parametrize("storage", ["source", "jpeg", "raw"])
@pytest.mark.parametrize(
    ("augment", "mask", "size"), [(None, "onehot", 96), ("train", "index", 96), ("train", "onehot", 40)]
)
def test_the_batches_are_those_of_threads(
    sets: dict[str, Path], storage: str, augment: Any, mask: Any, size: int
) -> None:
    runs = []
    for processes in (0, 3):
        with make(sets[storage], augment=augment, mask=mask, size=size, processes=processes) as loader:
            runs.append([digest(batch) for _ in range(2) for batch in loader])
    assert runs[0] == runs[1]


def test_no_process_is_left_by_a_loader_that_is_closed(folder: Path) -> None:
    with make(folder) as loader:
        assert eventually(lambda: len(children()) == 2)
        next(iter(loader))
    assert children() == []


def test_no_process_is_left_by_a_loader_that_is_dropped(folder: Path) -> None:
    loader = make(folder)
    next(iter(loader))
    del loader
    gc.collect()
    assert eventually(lambda: children() == [])


def test_a_worker_that_is_killed_is_told_and_the_loader_can_go_on(folder: Path) -> None:
    with make(folder, batch_size=4) as loader:
        wanted = [digest(batch) for batch in loader]
        loader.set_epoch(0)
        for one in children():
            one.kill()
        start = time.monotonic()
        with pytest.raises(PetsegError, match=r"a worker process of the loader ended \(killed by SIGKILL\)") as caught:
            epochs(loader, 3)
        assert "\n" not in str(caught.value)
        assert time.monotonic() - start < SECONDS
        loader.set_epoch(0)
        assert [digest(batch) for batch in loader] == wanted
        assert eventually(lambda: len(children()) == 2)


def test_a_worker_that_hangs_runs_into_the_timeout(folder: Path) -> None:
    with make(folder, timeout=3) as loader:
        next(iter(loader))
        for one in children():
            one.suspend()
        start = time.monotonic()
        with pytest.raises(PetsegError, match=r"no batch within 3 seconds"):
            epochs(loader, 3)
    assert time.monotonic() - start < 2 * SECONDS
    assert children() == []


PARENT = """
    import os, sys, time
    from pipeline import Loader
    loader = Loader(sys.argv[1], batch_size=4, size=64, device="cpu", augment="train", processes=2)
    iterator = iter(loader)
    next(iterator)
    if "fork" in sys.argv and not os.fork():
        time.sleep(60)
        os._exit(0)
    print("ready", flush=True)
    while "run" in sys.argv or "fork" in sys.argv:
        for batch in loader:
            pass
"""


@contextlib.contextmanager
def parent(folder: Path, how: str) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), str(folder), how],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process, children(process.pid) if how != "end" else []
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=SECONDS)


@pytest.mark.parametrize("how", ["run", "fork"])
def test_workers_end_when_the_loaders_process_is_killed(folder: Path, how: str) -> None:
    """With a fork that still holds the connections, too."""
    with parent(folder, how) as (process, workers):
        assert len(workers) == 2
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert eventually(lambda: not any(one.is_running() for one in workers))


def test_ctrl_c_ends_within_seconds(folder: Path) -> None:
    with parent(folder, "run") as (process, workers):
        os.killpg(process.pid, signal.SIGINT)
        start = time.monotonic()
        _, errors = process.communicate(timeout=2 * SECONDS)
        assert time.monotonic() - start < SECONDS
        assert errors.count("Traceback") == 1  # of the program, not of its workers
        assert "KeyboardInterrupt" in errors
        assert eventually(lambda: not any(one.is_running() for one in workers))


def test_a_program_that_forgets_to_close_ends_in_silence(folder: Path) -> None:
    with parent(folder, "end") as (process, _):
        output, errors = process.communicate(timeout=2 * SECONDS)
        assert (process.returncode, output, errors) == (0, "", "")


@pytest.mark.parametrize("processes", [0, 2])
def test_a_tar_that_was_replaced_is_checked_from_its_first_sample_on(
    make_set: Callable[..., Path], processes: int
) -> None:
    folder = make_set(10, storage="raw", size=48)
    with make(folder, batch_size=5, size=48, shuffle=False, processes=processes) as loader:
        list(loader)  # all checksums are known to fit
        tar = sorted(folder.glob("*.tar"))[0]
        row = ShardSet.open(folder).split("train").table[3]
        changed = bytearray(tar.read_bytes())
        changed[int(row["image_offset"]) + 500] ^= 1
        tar.with_suffix(".new").write_bytes(changed)
        tar.with_suffix(".new").replace(tar)
        with pytest.raises(SampleError, match=r"pet_3\.image\.npy \(sample 3 .*checksum"):
            list(loader)


def test_a_tar_that_is_cut_off_is_named(make_set: Callable[..., Path]) -> None:
    folder = make_set(100, storage="raw", size=48)
    with make(folder, batch_size=2, size=48, shuffle=False) as loader:
        batches = iter(loader)
        next(batches)
        tar = sorted(folder.glob("*.tar"))[7]  # samples 49 to 55: not among those that were read ahead
        with tar.open("r+b") as handle:
            handle.truncate(1000)
        with pytest.raises(SampleError, match=r"train-000007\.tar.*(has 1000 bytes|ends after)"):
            for _ in batches:
                pass
        assert loader.state_dict()["batch"] == 24


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"processes": -1}, "processes must be a whole number from 0 to 64, not -1"),
        ({"processes": True}, "processes must be a whole number"),
        ({"processes": 2, "threads": 2}, "give one of them"),
        ({"processes": 2, "engine": "dali"}, "works with engine torch"),
    ],
)
def test_wrong_arguments_are_refused(sets: dict[str, Path], options: dict[str, Any], told: str) -> None:
    with pytest.raises(PetsegError, match=told):
        make(sets["raw"], **options)


def test_where_there_is_no_shared_memory_it_is_said(sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(PetsegError, match="processes=2 needs Linux; use threads"):
        make(sets["raw"])


def test_a_process_that_cannot_be_started_is_told(sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(PetsegError, match="a worker process of the loader cannot be started: No such file"):
        make(sets["raw"])


def test_what_a_process_said_last_is_told() -> None:
    pool = SharedPool(((4,),), spare=1)
    crew = Crew(b"no setup", pool.descriptor, 1)
    ticket = crew.order(*pool.take(), count=1, generation=0)
    with pytest.raises(PetsegError, match=r"ended \(exit 1: .*pickl"):
        crew.wait_for(ticket, SECONDS)
    with pytest.raises(PetsegError, match="were ended; begin a new iteration"):
        crew.order(*pool.take(), count=1, generation=0)


def test_memory_that_is_used_up_is_told(sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    with make(sets["raw"]) as loader:
        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(PetsegError, match=r"no memory for another batch of .* bytes: No space left"):
            list(loader)


def test_prefetch_covers_every_process(sets: dict[str, Path]) -> None:
    with make(sets["raw"], processes=3, prefetch=1) as loader:
        assert loader.prefetch == 6
        assert loader.buffer_bytes is not None
        assert len(list(loader)) == len(loader)
    with make(sets["raw"], processes=2, prefetch=5) as loader:
        assert loader.prefetch == 5


def test_batches_that_are_kept_stay_whole_and_their_memory_goes_back(sets: dict[str, Path]) -> None:
    with make(sets["raw"], size=96, augment="train") as loader:
        engine = loader._engine
        assert isinstance(engine, ProcessEngine)
        for _ in loader:
            time.sleep(0.05)  # for all that may be made ahead
            assert os.fstat(engine._pool.descriptor).st_blocks * 512 <= (loader.buffer_bytes or 0)
        kept = [batch for _ in range(10) for batch in loader]
        before = [digest(batch) for batch in kept]
        list(loader)
        assert [digest(batch) for batch in kept] == before
        held = os.fstat(engine._pool.descriptor).st_blocks * 512
        del kept
        list(loader)
        left = os.fstat(engine._pool.descriptor).st_blocks * 512
        assert held > 40 * engine._pool.bytes_each
        assert left <= (2 * loader.prefetch + 2 + IN_HAND) * engine._pool.bytes_each  # one of them is `_`
        batch = next(iter(loader))
        digest_before = digest(batch)
    assert digest(batch) == digest_before  # the loader is closed, its processes are gone


# The parts.


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
        flip=random.random(count) < 0.5,
        brightness=floats[0],
        contrast=floats[1],
        saturation=floats[2],
    )
    work = Work(indices=random.integers(0, 2**60, count), rows=rows, parameters=parameters)
    memory = np.empty(40 * RECORD.itemsize, dtype=np.uint8)
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
    trouble = None if length is None else Trouble(damaged={7: "x" * length})
    messages = answers(slot, trouble)
    heads = [ANSWER.unpack_from(message) for message in messages]
    assert max(map(len, messages)) <= MOST
    assert heads == [(slot, True)] * (len(messages) - 1) + [(slot, False)]
    said = b"".join(message[ANSWER.size :] for message in messages)
    assert (pickle.loads(said) if said else None) == trouble


def test_a_worker_answers_whatever_it_is_asked(sets: dict[str, Path]) -> None:
    split = ShardSet.open(sets["raw"]).split("train")
    options = Options(storage="raw", stored_size=96, size=96, onehot=True, augment=None)
    pool = SharedPool(slot_shapes(options, 4), spare=1)
    worker = Worker(Setup(split=split, options=options, batch_size=4), pool.descriptor)
    slot, (images, _, records) = pool.take()
    work = _work(split, range(4))
    work.rows["image_crc32"][2] ^= 1
    write_work(work, records)
    damaged = worker.make(slot=slot, count=4, generation=0)
    assert damaged is not None
    assert list(damaged.damaged) == [2]
    assert "pet_2" in damaged.damaged[2]
    write_work(_work(split, range(4)), records)
    assert worker.make(slot=slot, count=4, generation=1) is None
    assert images.any()
    records[:] = 255  # no work at all
    trouble = worker.make(slot=slot, count=4, generation=1)
    assert trouble is not None
    assert trouble.damaged or trouble.error
    trouble = worker.make(slot=10**6, count=4, generation=1)  # beyond the file
    assert trouble is not None
    assert "a worker process of the loader failed: " in trouble.error


def test_a_long_list_of_damage_crosses(make_set: Callable[..., Path]) -> None:
    """More than fits into one message: every sample of a large batch is damaged."""
    folder = make_set(300, storage="raw", size=8)
    with make(folder, batch_size=300, size=8, on_error="replace", max_damaged=299) as loader:
        for tar in folder.glob("*.tar"):
            tar.unlink()
        with pytest.raises(PetsegError, match=r"300 damaged samples|every sample of the split is damaged"):
            list(loader)


def _work(split: Any, indices: range) -> Work:
    from pipeline.order.augmentation import draw_parameters

    numbers = np.array(indices)
    sizes = np.full(len(numbers), 96)
    parameters = draw_parameters(None, seed=0, epoch=0, indices=numbers, heights=sizes, widths=sizes)
    return Work(indices=numbers, rows=split.rows(numbers).copy(), parameters=parameters)


def test_tars_that_change_raise_the_generation(make_set: Callable[..., Path]) -> None:
    folder = make_set(10, storage="raw", size=48)
    split = ShardSet.open(folder).split("train")
    reader = MemberReader(split)
    reader.watch(split.rows(range(10)))
    assert not reader.drop_changed()
    assert reader.generation == 0
    tar = sorted(folder.glob("*.tar"))[0]
    tar.with_suffix(".new").write_bytes(tar.read_bytes())
    tar.with_suffix(".new").replace(tar)
    assert reader.drop_changed()
    assert reader.generation == 1
    reader.close()
