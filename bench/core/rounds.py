"""Rounds in which benchmark subjects take turns in random order, in several processes one after another."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from msgspec.structs import replace

from bench.core.machine import RunClock
from bench.core.output_check import CheckError
from bench.core.subject_process import SubjectProcess
from bench.results.records import DataInfo, Line, Repeat, Results, Skipped
from bench.settings import plain
from shards.cores import usable_cores
from shards.errors import TerminatedError, UsageError

MOST_PROCESSES = 5  # of each subject, one after another: enough for the exact rank test without the slowest of them


class Subject:
    """Something that is measured in turns with others, in ``process``, which several may share, or in this one.

    Where a method raises :class:`CheckError`, the subject is skipped.
    """

    part, field = "turns", "lines"  # of the run's seconds, and of its results

    def __init__(self, name: str, process: SubjectProcess | None = None) -> None:
        self.name, self.process, self.number, self.repeats = name, process, 0, list[Repeat]()

    def open(self) -> None:
        """Make ready to be timed."""

    def turn(self) -> Repeat:
        raise NotImplementedError

    def close(self) -> None:
        """Free what :meth:`open` has opened; nothing of it runs while others are timed."""

    def line(self) -> Line:
        """Return what was found."""
        raise NotImplementedError


S = TypeVar("S", bound=Subject)


class Run:
    """One run of a benchmark with its settings: how long each part of it takes, and what could not be measured."""

    def __init__(self, settings: Any, report: Callable[[str], None] = lambda _: None) -> None:
        """``report`` is told in a line what is done now."""
        self.settings, self.seconds, self.skipped = settings, dict[str, float](), list[Skipped]()
        self._report, self._clock = report, RunClock()

    @contextmanager
    def part(self, name: str, message: str = "") -> Iterator[None]:
        """Count the time that the block takes as this part's, whether it succeeds or not."""
        self._report(message or name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def rounds(self, subjects: Sequence[S], *, seed: int, goes_on: Callable[[S], bool] = lambda _: True) -> list[S]:
        """Let subjects take turns, in random order in each round, spread over several processes.

        One that does not go on after a round takes no more turns; what it has measured counts.

        Repeats within one process are not independent: what its memory layout or its scheduling cost, all of them pay.
        Processes start as many at a time as there are cores; what follows, they do one after another.
        Returned are the subjects that have repeats and did not fail.
        """
        order, alive, repeats = random.Random(seed), list(subjects), self.settings.repeats
        count = min(repeats, MOST_PROCESSES)
        for number in range(count):
            processes = list({id(subject.process): subject.process for subject in alive if subject.process}.values())
            try:
                with self.part("start", f"process {number + 1} of {count}: starting"):
                    _start(processes)
                for turn in range(repeats * number // count, repeats * (number + 1) // count):
                    for subject in filter(goes_on, order.sample(alive, len(alive))):
                        subject.number = number
                        if reason := self._turn(subject, f"round {turn + 1} of {repeats}: {subject.name}"):
                            alive.remove(subject)
                            self.skipped.append(Skipped(name=subject.name, reason=reason))
            finally:
                with self.part("close"), ThreadPoolExecutor() as pool:
                    list(pool.map(lambda process: process.close(), processes))
        return [subject for subject in alive if subject.repeats]

    def _turn(self, subject: Subject, message: str) -> str:
        """Let a subject take one turn; return why it could not."""
        try:
            with self.part("open", message):
                subject.open()
            with self.part(subject.part, message):
                subject.repeats.append(replace(subject.turn(), process=subject.number))
        except CheckError as error:
            return str(error)
        finally:
            with self.part("close"), suppress(CheckError):
                subject.close()
        return ""

    def results(self, data: DataInfo, measured: Sequence[Subject]) -> Results:
        """Return what was found of these subjects; a :class:`UsageError` says why there are none but limits."""
        fields = {subject.field for subject in measured}
        if not fields - {"limits"}:
            reasons = "; ".join(f"{one.name}: {one.reason}" for one in self.skipped)
            raise UsageError(f"nothing could be measured: {reasons or 'no loader fits the options'}")
        lines: dict[str, Any] = {field: tuple(x.line() for x in measured if x.field == field) for field in fields}
        parts = {name: round(seconds, 2) for name, seconds in self.seconds.items()}
        return Results(kind=self.settings.kind, data=data, settings=plain(self.settings), parts=parts,
                       environment=self._clock.finish(), skipped=tuple(self.skipped), **lines)  # fmt: skip


def _start(processes: Sequence[SubjectProcess]) -> None:
    def start(process: SubjectProcess) -> None:
        with suppress(CheckError):  # its subjects meet it again, and say so
            process.start()

    with ThreadPoolExecutor(usable_cores()) as pool:
        try:
            list(pool.map(start, processes))
        except (KeyboardInterrupt, TerminatedError):  # the pool would wait for them
            for process in processes:
                process.kill()
            raise
