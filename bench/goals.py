"""The goals that the project set itself, beside what a run measured: reached or not, and what limits them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import median

from bench.job import PROCESSES
from bench.loader_settings import BASELINE
from bench.results import BuildLine, Line, Results, StartLine
from bench.starts import BASELINE as START_BASELINE
from bench.statistics import spread
from bench.verdict import bound, limits_for

SIZE, BATCH = 128, 32  # what the goals for loaders are stated for
START_GOAL = 1.5  # times the time of `import torch` alone
FLAT = 0.02  # of the memory: what a process may grow between the epochs that are compared
BUILD_SHARE = 0.9  # of the limit
BUILD_SCALING = 0.9  # of as many times the speed of one process as there are processes
TOLERANCE = 0.005  # 2.495 is shown, and counts, as 2.5


@dataclass(frozen=True)
class LoaderGoal:
    """So many times the tutorial's pictures per second, on one storage."""

    storage: str
    augment: bool
    mask: str
    times: float

    @property
    def text(self) -> str:
        """What it is for."""
        what = "training augmentation" if self.augment else "evaluation"
        return f"`{self.storage}`, {what}, {'one-hot' if self.mask == 'onehot' else 'class index'}"


LOADER_GOALS = (
    LoaderGoal("source", augment=False, mask="onehot", times=2.5),
    LoaderGoal("jpeg", augment=False, mask="onehot", times=30),
    LoaderGoal("raw", augment=False, mask="index", times=300),
    LoaderGoal("raw", augment=False, mask="onehot", times=200),
    LoaderGoal("jpeg", augment=True, mask="onehot", times=15),
    LoaderGoal("raw", augment=True, mask="onehot", times=40),
)


@dataclass(frozen=True)
class Verdict:
    """A goal, what was asked, what was measured, and what limits it."""

    goal: str
    asked: str
    measured: str
    reached: bool
    limited_by: str


def verdicts(results: Results) -> list[Verdict]:
    """Return every goal that this run can tell about."""
    if results.kind == "build":
        return list(_build_verdicts(results))
    found: list[Verdict] = []
    if (results.settings.get("size"), results.settings.get("batch_size")) == (SIZE, BATCH):
        found += _loader_verdicts(results)
    return [*found, *_start_verdicts(results), *_soak_verdicts(results)]


def baseline_of(line: Line, results: Results) -> Line | None:
    """Return the tutorial's line with the same work, on the CPU; None where it was not measured."""
    same = (line.augment, line.mask, line.cache)
    return next(
        (x for x in results.lines if x.peer == BASELINE and x.device == "cpu" and (x.augment, x.mask, x.cache) == same),
        None,
    )


def times_baseline(line: Line, results: Results) -> float | None:
    """Return a line's rate over the tutorial's; None where that was not measured."""
    base = baseline_of(line, results)
    return None if base is None else spread(line.rates).median / spread(base.rates).median


def _loader_verdicts(results: Results) -> Iterator[Verdict]:
    for goal in LOADER_GOALS:
        line = fastest_of_ours(goal, results.lines)
        base = None if line is None else baseline_of(line, results)
        if line is None or base is None:
            continue
        times = spread(line.rates).median / spread(base.rates).median
        rates = f"({spread(line.rates).median:,.0f} and {spread(base.rates).median:,.0f})"
        how = f", {line.workers} processes" if line.engine == PROCESSES else ""
        yield Verdict(
            goal=goal.text,
            asked=f"{goal.times:g}x the tutorial",
            measured=f"{times_text(times)} {rates}{how}",
            reached=times >= goal.times * (1 - TOLERANCE),
            limited_by=_why(line, base, results),
        )


def fastest_of_ours(goal: LoaderGoal, lines: Iterable[Line]) -> Line | None:
    """Return our faster line that a goal is for, with the engine that is taken by itself: in threads or in processes.

    The tutorial's DataLoader has its best number of workers, too.
    """
    wanted = (goal.storage, goal.augment, goal.mask, "warm", "cpu")
    candidates = [
        line
        for line in lines
        if (line.default or line.engine == PROCESSES)
        and (line.storage, line.augment, line.mask, line.cache, line.device) == wanted
    ]
    return max(candidates, key=lambda line: spread(line.rates).median, default=None)


def _why(line: Line, base: Line, results: Results) -> str:
    """Say what bounds a line, and how many times the tutorial the cores allow at most."""
    parts = limits_for(line, results.limits)
    text = bound(line, results.limits, results.environment.cores)
    if not parts:
        return text
    most = 1 / sum(1 / rate for rate in parts.values()) / spread(base.rates).median
    return f"{text}; {', '.join(parts)} alone would allow {times_text(most)}"


def times_text(times: float) -> str:
    """Return a ratio as people read it: 2.47x, 34.1x, 214x."""
    return f"{times:.2f}x" if times < 10 else f"{times:.1f}x" if times < 100 else f"{times:,.0f}x"


def _start_verdicts(results: Results) -> Iterator[Verdict]:
    base = next((line for line in results.starts if line.name == START_BASELINE), None)
    if base is None:
        return
    for line in results.starts:
        if not line.storage:
            continue
        times = start_times(line, base)
        yield Verdict(
            goal=f"`{line.storage}`: fresh process to first batch",
            asked=f"at most {START_GOAL}x `import torch`",
            measured=f"{times:.2f}x ({median(line.seconds):.2f} s and {median(base.seconds):.2f} s)",
            reached=times <= START_GOAL * (1 + TOLERANCE),
            limited_by=f"{min(1.0, 1 / times):.0%} of it is `import torch` itself",
        )


def start_times(line: StartLine, base: StartLine) -> float:
    """Return how many times as long a start takes as the other."""
    return median(line.seconds) / median(base.seconds)


def _soak_verdicts(results: Results) -> Iterator[Verdict]:
    for line in results.soak:
        if line.epochs < 20:
            continue
        early, late = settled(line.memory_bytes)
        ready = line.prefetch * line.batch_bytes / 2**20
        yield Verdict(
            goal=f"memory over {line.epochs} epochs, {line.name}",
            asked="flat",
            measured=f"{early / 2**20:,.0f} MiB, then {late / 2**20:,.0f} MiB",
            reached=late <= early * (1 + FLAT),
            limited_by=f"{ready:,.1f} MiB of it are the {line.prefetch} batches kept ready",
        )


def settled(memory: tuple[int, ...]) -> tuple[float, float]:
    """Return the medians of the second tenth of the epochs and of the last one: 10 to 20 and 90 to 100 of 100."""
    tenth = len(memory) // 10
    return median(memory[tenth : 2 * tenth]), median(memory[-tenth:])


def _build_verdicts(results: Results) -> Iterator[Verdict]:
    limits = {limit.name: limit for limit in results.limits}
    alone = {line.name.partition(",")[0]: line for line in results.build if line.workers == 1}
    for line in results.build:
        if line.limit not in limits:
            continue
        limit, name = limits[line.limit], line.name.partition(",")[0].removeprefix("petseg ")
        rate, most = spread(line.rates).median, spread(limit.rates).median
        yield Verdict(
            goal=f"`{name}`, {line.workers} processes",
            asked=f"{BUILD_SHARE:g} of {limit.how.partition(', libjpeg')[0]}",
            measured=f"{rate / most:.2f} ({rate:,.0f} of {most:,.0f} pictures/s)",
            reached=rate / most >= BUILD_SHARE - TOLERANCE,
            limited_by=_build_why(line.cpu_seconds, line.rates, line.pictures, most, results.environment.cores),
        )
        one = alone.get(f"petseg {name}")
        if one is not None and line.workers > 1:
            gain = rate / spread(one.rates).median
            yield Verdict(
                goal=f"`{name}`, {line.workers} processes beside one",
                asked=f"{BUILD_SCALING * line.workers:g}x",
                measured=f"{gain:.2f}x",
                reached=gain >= BUILD_SCALING * line.workers - TOLERANCE,
                limited_by=_scaling_why(line, one),
            )


def _build_why(cpu: tuple[float, ...], rates: list[float], pictures: int, most: float, cores: int) -> str:
    """Say how much processor time packing takes beside the limit, and how busy the cores were."""
    if not cpu:
        return ""
    each = 1000 * median(cpu) / pictures
    busy = each / 1000 * spread(rates).median / cores
    return f"{each:.2f} processor seconds for 1,000, the limit takes {1000 * cores / most:.2f}; cores {busy:.0%} busy"


def _scaling_why(line: BuildLine, one: BuildLine) -> str:
    """Say what a picture costs in several processes and in one, and how busy the cores of the processes were."""
    if not line.cpu_seconds or not one.cpu_seconds:
        return ""
    many, alone = (1000 * median(x.cpu_seconds) / x.pictures for x in (line, one))
    busy, busy_alone = (median(x.cpu_seconds) / median(x.seconds) / x.workers for x in (line, one))
    cost = f"{many:.2f} processor seconds for 1,000, {alone:.2f} in one process"
    return f"{cost}; cores {busy:.0%} busy, {busy_alone:.0%} with one"
