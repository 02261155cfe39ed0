"""Ranks that start together, as threads of one process: who fails or differs is named, and nobody waits for it."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from torch.distributed import HashStore, Store, TCPStore
from waiting import PATIENCE

from petseg.host import meeting_store
from petseg.host.agreement import JointStart, RefusedStartError, joint_start
from petseg.host.distributed import World
from petseg.host.meeting_store import MeetingError
from shards.errors import PetsegError, TerminatedError, UsageError

Results = list[Any]


def on_each(size: int, act: Callable[[int], Any]) -> Results:
    """Return what ``act(rank)`` returns on each rank, or the error that it raises."""
    results: Results = [None] * size

    def run(rank: int) -> None:
        try:
            results[rank] = act(rank)
        except PetsegError as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=PATIENCE)
        assert not thread.is_alive(), "a rank waits for ever"
    return results


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Results]:
    """``together(3, act)``: ``act(start, rank)`` within a joint start of three ranks."""

    def run(size: int, act: Callable[[JointStart, int], Any]) -> Results:
        store = HashStore()
        monkeypatch.setattr("petseg.host.agreement.meeting_store", lambda rank, size: store)
        monkeypatch.setattr("petseg.host.agreement._starts", itertools.repeat(0))

        def rank_start(rank: int) -> Any:
            with joint_start(World(rank=rank, size=size)) as start:
                return act(start, rank)

        return on_each(size, rank_start)

    return run


def test_each_start_on_a_used_store_has_one_new_name() -> None:
    """Also with fewer or more ranks than before, and where a rank of the last start had died before it confirmed."""
    store, names = HashStore(), list[str]()
    store.set("petseg/token/1", "of a dead process")
    for size in (3, 2, 4, 3):
        found = on_each(size, lambda rank, size=size: meeting_store._name_of_start(store, rank, size))
        assert len(set(found)) == 1
        names += found[:1]
    assert len(set(names)) == 4


def test_rank_0_decides(together) -> None:
    def act(start: JointStart, rank: int) -> list[Any]:
        return [start.first_decides(lambda: f"of {rank}"), start.first_decides(lambda: [rank])]

    assert together(3, act) == [["of 0", [0]]] * 3


def test_who_fails_is_named_and_nobody_starts(together) -> None:
    def act(start: JointStart, rank: int) -> None:
        if rank == 2:
            raise UsageError("no such set: here")

    first, second, third = together(3, act)
    assert isinstance(first, RefusedStartError)
    assert str(first).startswith("rank 2 on ")
    assert str(first).endswith(": no such set: here")
    assert first.exit_code == second.exit_code == 2
    assert isinstance(second, RefusedStartError)
    assert type(third) is UsageError


def test_an_error_of_all_ranks_is_printed_by_one(together) -> None:
    def act(start: JointStart, rank: int) -> None:
        raise UsageError("--epochs 0: from 1")

    first, *others = together(3, act)
    assert type(first) is UsageError
    assert all(type(other) is RefusedStartError for other in others)


def test_nobody_waits_for_a_decision_of_a_rank_0_that_failed(together, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petseg.host.agreement._SHORT", timedelta(seconds=PATIENCE))  # nor does rank 0 itself

    def act(start: JointStart, rank: int) -> Any:
        if rank == 0:
            raise PetsegError("the disk is full")
        return start.first_decides(lambda: None)

    started = time.monotonic()
    first, second = together(2, act)
    assert time.monotonic() - started < PATIENCE / 2  # not the minutes that a late rank is waited for
    assert type(first) is PetsegError
    assert "rank 0 on " in str(second)
    assert "the disk is full" in str(second)


def test_who_differs_is_named(together) -> None:
    def act(start: JointStart, rank: int) -> None:
        start.must_agree("size", [32, 32], text="has 32", advice="?")
        step = 7 if rank == 1 else 9
        start.must_agree("step", step, text=f"reads step {step}", advice="share the folder")

    first, *others = together(3, act)
    text = str(first)
    assert text.startswith("rank 1 on ")
    assert ": reads step 7, rank 0 on " in text
    assert text.endswith(" reads step 9; share the folder")
    assert all(isinstance(other, RefusedStartError) for other in others)


def test_where_the_ranks_meet_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")
    meeting_store.meeting_store.cache_clear()
    with pytest.raises(UsageError, match=r"WORLD_SIZE, MASTER_ADDR, MASTER_PORT are missing; start .* torchrun"):
        meeting_store.meeting_store(0, 2)


def reach_rank_0(_: Store) -> None:
    meeting_store._rendezvous()


def get_a_name(store: Store) -> None:
    meeting_store._name_of_start(store, 1, 2)


def get_a_decision(_: Store) -> None:
    JointStart(World(rank=1, size=2)).first_decides(lambda: None)


def hear_of_all(_: Store) -> None:
    JointStart(World(rank=0, size=2)).succeed()


@pytest.mark.parametrize("wait", [reach_rank_0, get_a_name, get_a_decision, hear_of_all])
def test_a_signal_ends_the_waiting(monkeypatch: pytest.MonkeyPatch, wait: Callable[[Store], None]) -> None:
    """torch's own waits hold signals back: torchrun, which ends the other ranks, killed them after half a minute."""
    environment = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    store, started = HashStore(), time.monotonic()
    store.set_timeout(timedelta(seconds=10))
    monkeypatch.setattr(meeting_store, "WAIT", timedelta(seconds=10))
    monkeypatch.setattr("petseg.host.agreement.meeting_store", lambda rank, size: store)

    def stop(*_: object) -> None:
        raise TerminatedError(signal.SIGTERM)

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(TerminatedError):
            wait(store)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - started < 8


def test_a_rank_0_that_has_ended_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torchrun the store ends with it."""
    monkeypatch.setattr("petseg.host.agreement.meeting_store", lambda rank, size: store)
    server = TCPStore("127.0.0.1", 0, is_master=True)
    store = TCPStore("127.0.0.1", server.port, is_master=False)
    del server
    with pytest.raises(MeetingError, match=r"rank 0 is not reached any more \(.*\); its own output says why"):
        JointStart(World(rank=1, size=2)).first_decides(lambda: None)
