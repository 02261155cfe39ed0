"""Threads that work together or prefetch, and the memory that they reuse."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from waiting import PATIENCE, wait_until

from pipeline.io.abandoned import AbandonedError, check_wanted
from pipeline.io.scratch import Scratch
from pipeline.runtime.buffers import BufferPool
from pipeline.runtime.threads import PrefetchQueue, WorkerThreads


def test_workers_do_every_part_once_and_raise_what_was_raised() -> None:
    done: list[int] = []

    def fail(part: int) -> None:
        if part == 7:
            raise ValueError(part)
        done.append(part)

    for count in (1, 2, 5):
        workers = WorkerThreads(count, name="test")
        workers.run(done.append, range(100))
        assert sorted(done) == list(range(100))
        done.clear()
        with pytest.raises(ValueError, match="7"):
            workers.run(fail, range(20))
        assert len(done) == 19
        done.clear()
        workers.stop()


def test_workers_work_at_the_same_time() -> None:
    meeting = threading.Barrier(3, timeout=PATIENCE)
    workers = WorkerThreads(3, name="test")
    workers.run(lambda _: meeting.wait(), range(3))  # passes only if three threads are in it at once
    workers.stop()


def test_prefetching_is_bounded_and_in_order() -> None:
    made: list[int] = []

    def make(number: int) -> int:
        made.append(number)
        return number * number

    prefetched = PrefetchQueue(make, iter(range(10)), depth=3, name="test")
    wait_until(lambda: len(made) >= 3)
    time.sleep(0.05)  # for one too many
    assert made == [0, 1, 2]
    assert prefetched.take(PATIENCE) == 0
    wait_until(lambda: len(made) >= 4)
    time.sleep(0.05)
    assert made == [0, 1, 2, 3]
    assert [prefetched.take(PATIENCE) for _ in range(9)] == [n * n for n in range(1, 10)]
    prefetched.stop()


@pytest.mark.parametrize("threads", [2, 5])
def test_several_threads_make_and_the_order_stays(threads: int) -> None:
    together = threading.Barrier(2, timeout=PATIENCE)
    going: set[int] = set()

    def make(number: int) -> int:
        if number < 2:
            together.wait()  # passes only if two are made at once
        going.add(number)
        time.sleep(0.02 if number % 3 == 0 else 0)
        going.remove(number)
        return number

    prefetched = PrefetchQueue(make, iter(range(40)), depth=4, threads=threads, name="test")
    assert [prefetched.take(PATIENCE) for _ in range(40)] == list(range(40))
    prefetched.stop()
    assert not going


def test_several_threads_are_bounded_together() -> None:
    begun: list[int] = []
    prefetched = PrefetchQueue(begun.append, iter(range(100)), depth=3, threads=5, name="test")
    for taken in range(4):
        wait_until(lambda taken=taken: len(begun) >= 3 + taken)  # type: ignore[misc]
        time.sleep(0.05)  # for one too many
        assert sorted(begun) == list(range(3 + taken))
        prefetched.take(PATIENCE)
    assert prefetched.take_ready() is None
    prefetched.stop()


def test_what_came_before_a_failure_is_handed_out() -> None:
    """Job 3 fails at once, job 2 takes longer: 2 is handed out, then the failure; nothing new is begun."""
    begun: list[int] = []
    failing, failed = threading.Event(), threading.Event()

    def make(number: int) -> int:
        begun.append(number)
        if number == 3:
            failing.set()
            raise KeyError("three")
        if number >= 2:
            assert (failing if number == 2 else failed).wait(PATIENCE)
        return number

    prefetched = PrefetchQueue(make, iter(range(100)), depth=8, threads=3, name="test")
    assert [prefetched.take(PATIENCE) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError, match="three"):
        prefetched.take(PATIENCE)
    failed.set()
    time.sleep(0.05)  # for one too many
    prefetched.stop()
    assert max(begun) < 6


def test_an_error_of_the_job_iterator_is_raised_in_its_turn() -> None:
    def jobs() -> Iterator[int]:
        yield from range(3)
        raise OSError("no table")

    prefetched = PrefetchQueue(lambda number: number, jobs(), depth=9, threads=2, name="test")
    assert [prefetched.take(PATIENCE) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="no table"):
        prefetched.take(PATIENCE)
    prefetched.stop()


def test_threads_end_with_a_pool_that_is_dropped() -> None:
    before = set(threading.enumerate())
    workers = WorkerThreads(3, name="dropped")
    workers.run(lambda _: None, range(5))
    del workers
    gc.collect()
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dropped")]


def test_waiting_for_what_is_not_made_in_time_ends() -> None:
    release = threading.Event()
    prefetched = PrefetchQueue(lambda _: release.wait(PATIENCE), iter(range(2)), depth=1, name="test")
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        prefetched.take(0.05)
    with pytest.raises(TimeoutError):
        prefetched.take(1.3)
    assert 1.3 < time.monotonic() - start < PATIENCE / 2
    release.set()
    prefetched.stop()


@pytest.mark.parametrize("sharers", [1, 3])
def test_what_is_being_made_is_given_up_at_the_next_sample(sharers: int) -> None:
    """A batch of endless samples: its threads, and those that share it, are told when the queue is stopped."""
    workers = WorkerThreads(sharers, name="test")
    at_work, given_up = threading.Barrier(sharers + 1, timeout=PATIENCE), []

    def fill(part: int) -> None:
        at_work.wait()
        try:
            while True:
                time.sleep(0.001)
                check_wanted()
        except AbandonedError:
            given_up.append(part)
            raise

    prefetched = PrefetchQueue(lambda _: workers.run(fill, range(9)), iter(range(9)), depth=1, name="slow-batch")
    at_work.wait()
    prefetched.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "slow-batch"]
    assert len(given_up) == sharers  # nothing more was begun
    check_wanted()
    workers.run(given_up.append, range(5))  # of others, who go on
    assert len(given_up) == sharers + 5
    workers.stop()


def test_the_last_batches_are_made_though_nothing_more_is_started() -> None:
    ended = threading.Event()

    def jobs() -> Iterator[int]:
        yield from range(2)
        ended.set()

    def make(number: int) -> int:
        assert ended.wait(PATIENCE) if number else True
        time.sleep(0.05)  # by which the queue has been told that there are no further jobs
        check_wanted()
        return number

    prefetched = PrefetchQueue(make, jobs(), depth=4, threads=2, name="test")
    assert [prefetched.take(PATIENCE) for _ in range(2)] == [0, 1]
    prefetched.stop()


def test_prefetching_raises_where_it_failed() -> None:
    def make(number: int) -> int:
        if number == 2:
            raise KeyError("two")
        return number

    prefetched = PrefetchQueue(make, iter(range(10)), depth=5, name="test")
    assert [prefetched.take(PATIENCE), prefetched.take(PATIENCE)] == [0, 1]
    with pytest.raises(KeyError, match="two"):
        prefetched.take(PATIENCE)
    prefetched.stop()


def test_memory_comes_back_only_when_no_tensor_shares_it() -> None:
    pool = BufferPool((4, 4), spare=2)
    array = pool.take()
    address = array.ctypes.data
    tensor = torch.from_numpy(array)
    views = [tensor.permute(1, 0), tensor[1:], tensor.view(-1), tensor.numpy()]
    del array, tensor
    for _ in range(len(views)):
        views.pop(0)
        gc.collect()
        again = [pool.take() for _ in range(3)]
        if views:
            assert address not in [each.ctypes.data for each in again]
        del again
    assert address in [each.ctypes.data for each in [pool.take(), pool.take(), pool.take()]]


def test_scratch_memory_is_a_threads_own() -> None:
    scratch = Scratch()
    mine = scratch.take("a", (10,))
    theirs: list[int] = []
    thread = threading.Thread(target=lambda: theirs.append(scratch.take("a", (10,)).ctypes.data))
    thread.start()
    thread.join()
    assert scratch.take("a", (5, 2)).ctypes.data == mine.ctypes.data
    assert theirs[0] != mine.ctypes.data
