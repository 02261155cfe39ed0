"""Rounds, on subjects that misbehave; and which passes options choose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bench_results import job

from bench.core.loader_subject import LoaderSubject
from bench.core.output_check import CheckError
from bench.core.rounds import MOST_PROCESSES, Run, Subject
from bench.core.subject_process import SubjectProcess
from bench.loader_benchmark import kinds_of_work, may_be_fastest
from bench.results.records import Repeat, Skipped
from bench.settings import LoaderSettings


class FakeSubject(Subject):
    """Notes what is done with it; fails where ``fails`` says."""

    def __init__(self, name: str, log: list[str], fails: str = "") -> None:
        super().__init__(name)
        self.log, self.fails = log, fails
        self.process = FakeProcess(self)

    def note(self, what: str) -> None:
        self.log.append(f"{self.name} {what}")
        if self.fails == what:
            raise CheckError(f"no {what}")

    def open(self) -> None:
        self.note("open")

    def turn(self) -> Repeat:
        self.note("turn")
        return Repeat(images=1, seconds=1.0)

    def close(self) -> None:
        self.log.append(f"{self.name} close")


class FakeProcess(SubjectProcess):
    """The process of one subject."""

    def __init__(self, subject: FakeSubject) -> None:
        super().__init__("")
        self.subject = subject

    def start(self) -> None:
        self.subject.note("start")

    def close(self) -> None:
        self.subject.log.append(f"{self.subject.name} end")


def rounds(subjects: list[Any], repeats: int, **how: Any) -> tuple[list[Any], Run]:
    run = Run(LoaderSettings(shards=Path("unused"), repeats=repeats))
    return run.rounds(subjects, seed=0, **how), run


@pytest.mark.parametrize(("repeats", "processes"), [(1, [0]), (3, [0, 1, 2]), (5, [0, 1, 2, 3, 4]),
                                                    (7, [0, 1, 2, 2, 3, 4, 4])])  # fmt: skip
def test_repeats_are_spread_over_processes(repeats: int, processes: list[int]) -> None:
    log: list[str] = []
    (subject,), run = rounds([FakeSubject("a", log)], repeats)
    assert [repeat.process for repeat in subject.repeats] == processes
    assert log.count("a start") == log.count("a end") == min(repeats, MOST_PROCESSES)
    assert log.count("a open") == log.count("a turn") == log.count("a close") == repeats
    assert run.skipped == []


def test_nothing_is_started_where_nothing_is_requested() -> None:
    log: list[str] = []
    alive, run = rounds([FakeSubject("a", log)], 0)
    assert (alive, run.skipped, log) == ([], [], [])


@pytest.mark.parametrize("fails", ["open", "turn"])
def test_a_subject_that_fails_is_closed_and_skipped_and_the_others_go_on(fails: str) -> None:
    log: list[str] = []
    subjects = [FakeSubject("a", log), FakeSubject("b", log, fails), FakeSubject("c", log)]
    alive, run = rounds(subjects, 4)
    assert [subject.name for subject in alive] == ["a", "c"]
    assert run.skipped == [Skipped(name="b", reason=f"no {fails}")]
    assert log.count("a turn") == log.count("c turn") == 4
    assert log.count(f"b {fails}") == 1
    assert "b close" in log
    assert {"start", "open", "turns", "close"} == run.seconds.keys()


def test_one_is_open_at_a_time() -> None:
    """Nothing of the others runs while one is timed, and processes are not started meanwhile."""
    log: list[str] = []
    rounds([FakeSubject(name, log) for name in "abc"], 2)
    for at in (at for at, entry in enumerate(log) if entry.endswith("turn")):
        name = log[at][0]
        assert log[at - 1 : at + 2] == [f"{name} open", f"{name} turn", f"{name} close"]
    assert {entry[2:] for entry in log[:3]} == {"start"}


def test_turns_are_in_random_order_the_same_each_time() -> None:
    orders = []
    for _ in range(2):
        log: list[str] = []
        rounds([FakeSubject(name, log) for name in "abcd"], 9)
        turns = [entry[0] for entry in log if entry.endswith("turn")]
        orders.append(["".join(turns[number : number + 4]) for number in range(0, 36, 4)])
    assert orders[0] == orders[1]
    assert len(set(orders[0])) > 4
    assert {"".join(sorted(order)) for order in orders[0]} == {"abcd"}


def test_what_does_not_go_on_keeps_what_it_has_measured() -> None:
    log: list[str] = []
    subjects = [FakeSubject(name, log) for name in "ab"]
    alive, _ = rounds(subjects, 3, goes_on=lambda subject: subject.name == "a" or not subject.repeats)
    assert [(subject.name, len(subject.repeats)) for subject in alive] == [("a", 3), ("b", 1)]


def test_a_library_that_cannot_be_the_fastest_is_measured_once() -> None:
    def loader(peer: str, storage: str, rate: int, **changes: Any) -> LoaderSubject:
        work = job(peer, storage, **changes)
        found = LoaderSubject(work, process=None, ours=None, seconds=1.0)
        found.repeats = [Repeat(images=rate, seconds=1.0)] if rate else []
        return found

    fast, slow = loader("ffcv", "raw", 100), loader("litdata", "raw", 49)
    among = [fast, slow, loader("webdataset", "raw", 50), loader("streaming", "raw", 0), loader("litdata", "jpeg", 1),
             loader("litdata", "raw", 1, augment=True), loader("petseg", "raw", 900), loader("petseg", "raw", 9),
             loader("tutorial", "raw", 9)]  # fmt: skip
    assert [one for one in among if not may_be_fastest(one, among=among)] == [slow]
    assert may_be_fastest(Subject("a limit"), among=among)


def test_processes_end_where_something_unexpected_is_raised() -> None:
    log: list[str] = []
    subjects = [FakeSubject("a", log), FakeSubject("b", log)]
    subjects[1].turn = lambda: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        rounds(subjects, 1)
    assert {"a end", "b close", "b end"} <= set(log)


def test_parts_add_up_also_where_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 2.0, 10.0, 11.5, 20.0, 20.126])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    run = Run(LoaderSettings(shards=Path("unused")))
    with run.part("turns"):
        pass
    with pytest.raises(KeyError), run.part("open"):
        raise KeyError
    with run.part("turns"):
        pass
    assert run.seconds == pytest.approx({"turns": 2.126, "open": 1.5})


def test_masks_and_caches_choose_passes() -> None:
    def chosen(**options: str) -> list[tuple[bool, str, str, str]]:
        found = kinds_of_work(LoaderSettings(shards=Path("unused"), **options), ["source", "raw"])
        return [(one.augment, one.mask, one.storage, one.cache) for one in found]

    index = (False, "index", "raw", "warm")
    assert chosen(mask="both") == [(False, "onehot", "", "warm"), index, (True, "onehot", "", "warm")]
    assert chosen(mask="onehot") == [(False, "onehot", "", "warm"), (True, "onehot", "", "warm")]
    assert chosen(mask="index") == [(False, "index", "", "warm"), (True, "index", "", "warm")]
    assert chosen(cache="cold") == [(False, "onehot", "", "cold")]
    assert chosen(cache="both", augment="train") == [(True, "onehot", "", "warm"), (True, "onehot", "source", "cold")]
