"""Rounds in which benchmark subjects take turns in random order, in several processes one after another."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TypeVar

from msgspec.structs import replace

from bench.core.output_check import CheckError
from bench.core.subject_process import SubjectProcess
from bench.results.records import Repeat, Skipped
from shards.cores import usable_cores
from shards.errors import TerminatedError, UsageError

MOST_PROCESSES = 5  # of each subject, one after another: enough for the exact rank test without the slowest of them


class PartSeconds:
    """Adds up seconds by the name of a part of the run, and reports in a line what is done now."""

    def __init__(self, report: Callable[[str], None] = lambda _: None) -> None:
        self.seconds, self._report = dict[str, float](), report

    @contextmanager
    def part(self, name: str, message: str = "") -> Iterator[None]:
        """Count the time that the block takes, whether it succeeds or not."""
        self._report(message or name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def rounded(self) -> dict[str, float]:
        """Return the seconds of each part, to the hundredth, in the order of first use."""
        return {name: round(seconds, 2) for name, seconds in self.seconds.items()}


class Subject:
    """Something that is measured in turns with others, in ``process``, which several may share, or in this one.

    Where a method raises :class:`CheckError`, the subject is skipped.
    """

    part = "turns"

    def __init__(self, name: str, process: SubjectProcess | None = None) -> None:
        self.name, self.process, self.number, self.repeats = name, process, 0, list[Repeat]()

    def open(self) -> None:
        """Make ready to be timed."""

    def turn(self) -> Repeat:
        raise NotImplementedError

    def close(self) -> None:
        """Free what :meth:`open` has opened; nothing of it runs while others are timed."""


S = TypeVar("S", bound=Subject)


def run_rounds(
    subjects: Sequence[S], *, repeats: int, seed: int, parts: PartSeconds, skipped: list[Skipped],
    goes_on: Callable[[S], bool] = lambda _: True,
) -> list[S]:  # fmt: skip
    """Let subjects take ``repeats`` turns each, in random order in each round, spread over several processes.

    One that does not go on after a round takes no more turns; what it has measured counts.

    Repeats within one process are not independent: what its memory layout or its scheduling cost, all of them pay.
    Processes start as many at a time as there are cores; what follows, they do one after another.
    Returned are the subjects that have repeats and did not fail; the reasons of those that did are in ``skipped``.
    """
    order, alive, count = random.Random(seed), list(subjects), min(repeats, MOST_PROCESSES)
    for number in range(count):
        processes = list({id(subject.process): subject.process for subject in alive if subject.process}.values())
        try:
            message = f"process {number + 1} of {count}: starting"
            with parts.part("start", message), ThreadPoolExecutor(usable_cores()) as pool:
                try:
                    list(pool.map(_start, processes))
                except (KeyboardInterrupt, TerminatedError):  # the pool would wait for them
                    for process in processes:
                        process.kill()
                    raise
            for turn in range(repeats * number // count, repeats * (number + 1) // count):
                for subject in filter(goes_on, order.sample(alive, len(alive))):
                    subject.number, message = number, f"round {turn + 1} of {repeats}: {subject.name}"
                    try:
                        with parts.part("open", message):
                            subject.open()
                        with parts.part(subject.part, message):
                            subject.repeats.append(replace(subject.turn(), process=number))
                    except CheckError as error:
                        alive.remove(subject)
                        skipped.append(Skipped(name=subject.name, reason=str(error)))
                    finally:
                        with parts.part("close"), suppress(CheckError):
                            subject.close()
        finally:
            with parts.part("close"), ThreadPoolExecutor() as pool:
                list(pool.map(lambda process: process.close(), processes))
    return [subject for subject in alive if subject.repeats]


def _start(process: SubjectProcess) -> None:
    with suppress(CheckError):  # its subjects meet it again, and say so
        process.start()


def refuse_empty(lines: Sequence[object], skipped: Sequence[Skipped]) -> None:
    """Raise a :class:`UsageError` with the reasons where nothing could be measured."""
    if not lines:
        reasons = "; ".join(f"{one.name}: {one.reason}" for one in skipped)
        raise UsageError(f"nothing could be measured: {reasons or 'no loader fits the options'}")
