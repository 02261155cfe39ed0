"""Rounds in which benchmark subjects take turns in random order, in several processes of each one after another."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from msgspec.structs import replace

from bench.core.output_check import CheckError
from bench.results.records import Repeat, Skipped
from shards.cores import usable_cores
from shards.errors import UsageError

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
    """Something that is measured in turns with others; where a method raises :class:`CheckError`, it is skipped."""

    part = "turns"

    def __init__(self, name: str) -> None:
        self.name, self.process, self.repeats = name, 0, list[Repeat]()

    def start(self) -> None:
        """Start a process, as far as that can be done while others start theirs."""

    def open(self) -> None:
        """Make ready to be timed."""

    def turn(self) -> Repeat:
        """Time one repeat."""
        raise NotImplementedError

    def close(self) -> None:
        """End the process."""

    def take_turn(self) -> None:
        """Time one repeat and keep it, with the number of the process that it is of."""
        self.repeats.append(replace(self.turn(), process=self.process))


S = TypeVar("S", bound=Subject)


def run_rounds(
    subjects: Sequence[S], *, repeats: int, seed: int, parts: PartSeconds, skipped: list[Skipped]
) -> list[S]:
    """Let subjects take ``repeats`` turns each, in random order in each round, spread over several processes of each.

    Repeats within one process are not independent: what its memory layout or its scheduling cost, all of them pay.
    Processes start as many at a time as there are cores; what follows, they do one after another.

    Returns:
        the subjects that have repeats and did not fail; the reasons of those that did are in ``skipped``.
    """
    order, alive = random.Random(seed), list(subjects)

    def attempt(subject: S, do: Callable[[], object]) -> None:
        try:
            do()
        except CheckError as error:
            alive.remove(subject)
            skipped.append(Skipped(name=subject.name, reason=str(error)))
            subject.close()

    processes = min(repeats, MOST_PROCESSES)
    for process in range(processes):
        present = list(alive)
        try:
            with parts.part("open", f"process {process + 1} of {processes}: starting"):
                with ThreadPoolExecutor(usable_cores()) as pool:
                    started = [pool.submit(subject.start) for subject in present]
                for subject, start in zip(present, started, strict=True):
                    subject.process = process
                    attempt(subject, start.result)
            for subject in list(alive):
                with parts.part("open", f"{subject.name}: opening and warm-up"):
                    attempt(subject, subject.open)
            for number in range(repeats * process // processes, repeats * (process + 1) // processes):
                for subject in order.sample(alive, len(alive)):
                    with parts.part(subject.part, f"round {number + 1} of {repeats}: {subject.name}"):
                        attempt(subject, subject.take_turn)
        finally:
            with parts.part("close"), ThreadPoolExecutor() as pool:
                list(pool.map(lambda subject: subject.close(), present))
    return [subject for subject in alive if subject.repeats]


def refuse_empty(lines: Sequence[object], skipped: Sequence[Skipped]) -> None:
    """Raise a :class:`UsageError` with the reasons where nothing could be measured."""
    if not lines:
        reasons = "; ".join(f"{one.name}: {one.reason}" for one in skipped)
        raise UsageError(f"nothing could be measured: {reasons or 'no loader fits the options'}")
