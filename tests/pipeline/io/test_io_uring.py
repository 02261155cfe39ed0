"""Many reads in one system call: the same bytes as one by one, and the same batches as without it."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import Batch, Loader
from pipeline.io import io_uring, members
from pipeline.io.io_uring import ENTRIES, Ring, is_available, thread_ring

needs_ring = pytest.mark.skipif(not is_available(), reason="no io_uring here")

LENGTH = 300_000


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, bytes]]:
    path = tmp_path_factory.mktemp("ring") / "file"
    data = np.random.default_rng(0).bytes(LENGTH)
    path.write_bytes(data)
    descriptor = os.open(path, os.O_RDONLY)
    yield descriptor, data
    os.close(descriptor)


def read(descriptors: list[int], spans: list[tuple[int, int]]) -> tuple[list[int], list[bytes]]:
    """Read pieces (offset, length); return what the kernel says of each, and the memory behind each."""
    memory = [np.zeros(length, dtype=np.uint8) for _, length in spans]
    here = thread_ring()
    assert here is not None
    got = here.read(
        np.array(descriptors, dtype=np.int64),
        np.array([offset for offset, _ in spans], dtype=np.int64),
        np.array([each.ctypes.data for each in memory], dtype=np.int64),
        np.array([length for _, length in spans], dtype=np.int64),
    )
    return got.tolist(), [each.tobytes() for each in memory]


@needs_ring
@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, LENGTH + 100), st.integers(1, 70_000)), min_size=1, max_size=40))
def test_pieces_are_what_pread_returns(file: tuple[int, bytes], spans: list[tuple[int, int]]) -> None:
    descriptor, data = file
    got, memory = read([descriptor] * len(spans), spans)
    for count, found, (offset, length) in zip(got, memory, spans, strict=True):
        expected = data[offset : offset + length]
        assert count == len(expected)
        assert found == expected.ljust(length, b"\0")


@needs_ring
@pytest.mark.parametrize("count", [1, ENTRIES - 1, ENTRIES, ENTRIES + 1, 3 * ENTRIES + 7])
def test_any_number_of_pieces(file: tuple[int, bytes], count: int) -> None:
    descriptor, data = file
    for turn in range(3):  # so that the ring's counters are not at the start of it
        spans = [((97 * place + turn) % (LENGTH - 64), 64) for place in range(count)]
        got, memory = read([descriptor] * count, spans)
        assert got == [64] * count
        assert memory == [data[offset : offset + 64] for offset, _ in spans]


@needs_ring
def test_a_piece_that_cannot_be_read_does_not_harm_the_others(file: tuple[int, bytes]) -> None:
    descriptor, data = file
    got, memory = read([descriptor, 10**6, descriptor], [(5, 10), (0, 10), (LENGTH - 4, 10)])
    assert got == [10, -errno.EBADF, 4]
    assert memory[0] == data[5:15]
    assert memory[2] == data[-4:] + bytes(6)


@needs_ring
def test_from_a_file_that_is_not_in_memory(file: tuple[int, bytes]) -> None:
    descriptor, data = file
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    spans = [(offset, 5000) for offset in range(0, LENGTH - 5000, 5000)]
    got, memory = read([descriptor] * len(spans), spans)
    for count, found, (offset, _) in zip(got, memory, spans, strict=True):
        assert 0 < count <= 5000  # fewer may come, for no reason
        assert found[:count] == data[offset : offset + count]


@needs_ring
def test_each_thread_has_a_ring_of_its_own_and_none_stays_open(file: tuple[int, bytes]) -> None:
    descriptor, data = file
    mine = thread_ring()
    assert thread_ring() is mine
    before = open_files()
    wrong: list[int] = []
    others: list[Ring | None] = []

    def work(number: int) -> None:
        others.append(thread_ring())
        for turn in range(50):
            spans = [((number * 7919 + turn * 104729 + k * 31) % (LENGTH - 900), 900) for k in range(60)]
            _, memory = read([descriptor] * 60, spans)
            if memory != [data[offset : offset + 900] for offset, _ in spans]:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len({id(each) for each in [mine, *others]}) == 5
    others.clear()
    threads.clear()
    assert open_files() == before


@needs_ring
def test_a_fork_gets_a_ring_of_its_own(file: tuple[int, bytes]) -> None:
    descriptor, data = file
    mine = thread_ring()
    child = os.fork()
    if child == 0:
        good = thread_ring() is not mine and read([descriptor], [(3, 20)]) == ([20], [data[3:23]])
        os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert read([descriptor], [(3, 20)]) == ([20], [data[3:23]])


@needs_ring
def test_what_interrupts_a_read_waits_for_it() -> None:
    """Ctrl-C in the middle: the memory must not be written to once its owner goes on."""
    source, sink = os.pipe()
    memory = np.zeros(5, dtype=np.uint8)
    one = np.ones(1, dtype=np.int64)
    here = thread_ring()
    assert here is not None

    interrupted = threading.Event()

    def interrupt(*_: object) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    def write() -> None:  # on a busy machine, too, only after the first interrupt
        assert interrupted.wait(60)
        time.sleep(0.4)
        os.write(sink, b"hello")

    before = signal.signal(signal.SIGALRM, interrupt)
    writer = threading.Thread(target=write)
    try:
        writer.start()
        signal.setitimer(signal.ITIMER_REAL, 0.2, 0.1)
        with pytest.raises(KeyboardInterrupt):
            here.read(one * source, one * 0, one * memory.ctypes.data, one * 5)
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert memory.tobytes() == b"hello"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        writer.join()
        os.close(source)
        os.close(sink)
    assert here.closed
    assert thread_ring() is not here


@needs_ring
def test_a_call_that_is_refused_raises_and_the_next_one_is_tried_elsewhere(
    monkeypatch: pytest.MonkeyPatch, sets: dict[str, Path]
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EBUSY, "busy")

    expected = [(batch.index.tolist(), batch.image.clone()) for batch in load(sets["raw"])]
    monkeypatch.setattr(io_uring, "_call", refuse)
    for (index, image), batch in zip(expected, load(sets["raw"]), strict=True):
        assert index == batch.index.tolist()
        assert image.equal(batch.image)


def test_no_ring_where_it_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETSEG_IO_URING", "0")
    is_available.cache_clear()
    try:
        assert not is_available()
        assert thread_ring() is None
    finally:
        monkeypatch.undo()
        is_available.cache_clear()


@pytest.mark.parametrize("storage", ["source", "jpeg", "raw"])
def test_batches_are_the_same_without_it(sets: dict[str, Path], storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two epochs: the first looks at checksums, the second no longer."""
    expected = [(batch.image, batch.mask) for batch in load(sets[storage])]
    monkeypatch.setattr(members, "thread_ring", lambda: None)
    found = [(batch.image, batch.mask) for batch in load(sets[storage])]
    assert len(found) == len(expected)
    for (image, mask), (other_image, other_mask) in zip(expected, found, strict=True):
        assert image.equal(other_image)
        assert mask.equal(other_mask)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def load(folder: Path) -> Iterator[Batch]:
    with Loader(folder, batch_size=5, size=32, device="cpu", engine="torch") as loader:
        for _ in range(2):
            yield from loader
