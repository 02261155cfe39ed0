"""Results as tables, in the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.goals import Verdict, start_times, times_baseline, times_text, verdicts
from bench.loader_settings import BASELINE
from bench.results import BuildLine, Limit, Line, Results, SoakLine, StartLine, TrainLine
from bench.starts import BASELINE as START_BASELINE
from bench.statistics import spread
from bench.verdict import bound, share_of_limit

if TYPE_CHECKING:
    from rich.table import Table

PIPE_WIDTH = 140  # characters, where there is no terminal to ask


def print_results(results: Results) -> None:
    """Print all tables of a run on standard output."""
    import sys

    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)
    if results.limits:
        console.print(limits_table(results.limits))
    for section in sections(results.lines):
        console.print(loader_table(section, results))
    for heading, headings, rows in process_parts(results):
        console.print(_filled(heading, headings, rows, text_columns=(0,)))
    if results.train:
        console.print(train_table(results.train))
    if results.build:
        console.print(build_table(results.build, results.limits))
    if rows := gpu_rows(results):
        console.print(_filled("the GPU's side", GPU_HEADINGS, rows, text_columns=(0,)))
    if found := verdicts(results):
        rows = [goal_cells(verdict) for verdict in found]
        console.print(_filled("the project's goals", GOAL_HEADINGS, rows, text_columns=(0, 1, 2, 3, 4)))
    for number, mark in enumerate(all_marks(results.lines), start=1):
        console.print(f"[{number}] {mark}", markup=False, highlight=False)
    for left in results.left:
        console.print(f"not measured: {left.name}: {left.reason}", markup=False, highlight=False)
    console.print(f"took {took_text(results)}", markup=False, highlight=False)


def took_text(results: Results) -> str:
    """Say how long a run took, and each part of it that took half a second or more."""
    parts = ", ".join(f"{name} {seconds:,.0f}" for name, seconds in results.parts.items() if seconds >= 0.5)
    return f"{results.environment.seconds:,.0f} s{': ' + parts if parts else ''}"


@dataclass(frozen=True)
class Section:
    """Lines that did the same work, fastest first; and the tutorial's, where it is there for its rate alone.

    Attributes:
        storage: of all but the tutorial, which reads the source's files whatever the others read.
        title: what they did.
        lines: not empty.
    """

    storage: str
    title: str
    lines: tuple[Line, ...]

    def label(self, line: Line) -> str:
        """Return a line's name within the section."""
        words = [line.peer, line.engine, "GPU" if line.device == "cuda" else ""]
        name = " ".join(word for word in words if word)
        return name if line.storage == self.storage else f"{name} ({line.storage})"


def sections(lines: Iterable[Line]) -> list[Section]:
    """Group lines that did the same: by cache, augmentation, masks and storage.

    A tutorial that would be alone joins the next group of the same work on another storage.
    """
    groups: dict[tuple[str, bool, str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line.cache, line.augment, line.mask, line.storage), []).append(line)
    for kind, group in list(groups.items()):
        others = [other for other in groups if other[:3] == kind[:3] and other != kind]
        if others and all(line.peer == BASELINE for line in group):
            groups[others[0]] += groups.pop(kind)
    found = []
    for (cache, augment, mask, storage), group in groups.items():
        what = "training augmentation" if augment else "evaluation"
        form = "one-hot masks" if mask == "onehot" else "class-index masks"
        title = f"{storage} storage, {what}, {form}, page cache {cache}"
        ordered = sorted(group, key=lambda line: -spread(line.rates).median)
        found.append(Section(storage, title, tuple(ordered)))
    return found


def all_marks(lines: Iterable[Line]) -> list[str]:
    """Return every mark once, in the order of first use; its place + 1 is its number."""
    return list(dict.fromkeys(mark for line in lines for mark in line.marks))


def mark_numbers(line: Line, marks: list[str]) -> str:
    """Return the marks of a line as ``[1][3]``."""
    return "".join(f"[{marks.index(mark) + 1}]" for mark in line.marks)


def loader_cells(line: Line, section: Section, results: Results, marks: list[str]) -> list[str]:
    """Return one row: name, rate, spread, times the tutorial, limit, bound, p95, processor time, memory, workers."""
    rate, times = spread(line.rates), times_baseline(line, results)
    p95 = spread([repeat.batch_ms[1] for repeat in line.repeats]).median
    share = share_of_limit(line, results.limits)
    return [
        section.label(line) + mark_numbers(line, marks),
        f"{rate.median:,.0f}",
        f"{rate.least:,.0f}..{rate.most:,.0f}",
        "" if times is None else times_text(times),
        "" if share is None else f"{share:.0%}",
        bound(line, results.limits, results.environment.cores),
        f"{p95:,.1f}",
        f"{line.cpu_seconds_per_thousand:,.2f}",
        f"{line.peak_memory_bytes / 2**20:,.0f}",
        str(line.workers or "own") + ("" if line.steady else " (not steady)"),
    ]


LOADER_HEADINGS = (
    "loader",
    "pictures/s",
    "least..most",
    "tutorial",
    "of limit",
    "bound by",
    "p95 batch ms",
    "CPU s/1000",
    "peak MiB",
    "workers",
)


def loader_table(section: Section, results: Results) -> Table:
    """Return the table of one group of lines."""
    marks = all_marks(results.lines)
    table = _table(section.title, LOADER_HEADINGS, text_columns=(0, 5, 9))
    for line in section.lines:
        table.add_row(*loader_cells(line, section, results, marks))
    return table


LIMIT_HEADINGS = ("limit", "storage", "pictures/s", "least..most", "how")


def limit_cells(limit: Limit) -> list[str]:
    """Return one row of the table of limits."""
    rate = spread(limit.rates)
    return [
        limit.name,
        limit.storage or "all",
        f"{rate.median:,.0f}",
        f"{rate.least:,.0f}..{rate.most:,.0f}",
        limit.how,
    ]


def limits_table(limits: Iterable[Limit]) -> Table:
    """Return the table of what is possible."""
    table = _table("what is possible: each part alone, on all cores", LIMIT_HEADINGS, text_columns=(0, 1, 4))
    for limit in limits:
        table.add_row(*limit_cells(limit))
    return table


TRAIN_HEADINGS = (
    "training",
    "loader alone",
    "in memory",
    "for real",
    "least..most",
    "stall",
    "waiting",
    "step ms p50 / p95",
    "peak MiB",
)


def train_cells(line: TrainLine) -> list[str]:
    """Return one row of the table of training."""
    from bench.verdict import stall

    real = spread(line.real_rates)
    gpu = "" if line.peak_gpu_bytes is None else f" + {line.peak_gpu_bytes / 2**20:,.0f} GPU"
    return [
        line.name,
        f"{spread(line.loader_rates).median:,.0f}",
        f"{spread(line.memory_rates).median:,.0f}",
        f"{real.median:,.0f}",
        f"{real.least:,.0f}..{real.most:,.0f}",
        f"{stall(line):.1%}",
        f"{spread(line.wait_share).median:.1%}",
        f"{line.step_ms[0]:,.1f} / {line.step_ms[1]:,.1f}",
        f"{line.peak_memory_bytes / 2**20:,.0f}{gpu}",
    ]


def train_table(lines: Iterable[TrainLine]) -> Table:
    """Return the table of training, pictures per second."""
    table = _table("training, pictures/s", TRAIN_HEADINGS, text_columns=(0,))
    for line in lines:
        table.add_row(*train_cells(line))
    return table


GPU_HEADINGS = ("on the GPU, a repeat", "host waited s", "device s, by events", "MiB moved to it")


def gpu_rows(results: Results) -> list[list[str]]:
    """Return the rows of the table of what lines cost on the GPU's side: the mean of a loader's repeats, or training's
    last one; empty where nothing ran on a GPU.
    """
    costs = {line.name: [repeat.gpu for repeat in line.repeats if repeat.gpu] for line in results.lines}
    costs |= {line.name: [line.gpu] for line in results.train if line.gpu}
    return [
        [
            name,
            f"{sum(cost.host_wait_seconds for cost in found) / len(found):.3f}",
            f"{sum(cost.device_seconds for cost in found) / len(found):.3f}",
            f"{sum(cost.moved_bytes for cost in found) / len(found) / 2**20:,.1f}",
        ]
        for name, found in costs.items()
        if found
    ]


GOAL_HEADINGS = ("goal", "asked", "measured", "reached", "what limits it")


def goal_cells(verdict: Verdict) -> list[str]:
    """Return one row of the table of goals."""
    return [verdict.goal, verdict.asked, verdict.measured, "yes" if verdict.reached else "no", verdict.limited_by]


START_HEADINGS = ("fresh process until", "seconds", "least..most", "import torch")
SOAK_HEADINGS = (
    "memory over many epochs",
    "epochs",
    "after the 1st MiB",
    "highest MiB",
    "after the last MiB",
    "batches ready MiB",
)


def process_parts(results: Results) -> list[tuple[str, tuple[str, ...], list[list[str]]]]:
    """Return title, headings and rows of what was found about our loader's process: its start, and its memory."""
    parts: list[tuple[str, tuple[str, ...], list[list[str]]]] = []
    base = next((line for line in results.starts if line.name == START_BASELINE), None)
    if results.starts:
        parts.append(
            ("from a fresh process to the first batch", START_HEADINGS, [start_cells(x, base) for x in results.starts])
        )
    if results.soak:
        parts.append(("memory of the process, epoch after epoch", SOAK_HEADINGS, [soak_cells(x) for x in results.soak]))
    return parts


def start_cells(line: StartLine, base: StartLine | None) -> list[str]:
    """Return one row of the table of starts."""
    found = spread(line.seconds)
    times = "" if base is None else times_text(start_times(line, base))
    return [line.name, f"{found.median:.2f}", f"{found.least:.2f}..{found.most:.2f}", times]


def soak_cells(line: SoakLine) -> list[str]:
    """Return one row of the table of memory."""
    shown = [line.memory_bytes[0], max(line.memory_bytes), line.memory_bytes[-1], line.prefetch * line.batch_bytes]
    return [line.name, str(line.epochs), *(f"{value / 2**20:,.0f}" for value in shown)]


BUILD_HEADINGS = (
    "packing",
    "workers",
    "pictures/s",
    "least..most",
    "of limit",
    "CPU s/1000",
    "seconds",
    "MiB written",
    "peak MiB",
)


def build_cells(line: BuildLine, limits: Sequence[Limit]) -> list[str]:
    """Return one row of the table of packing; the limit is what cannot be left out, in all cores."""
    rate = spread(line.rates)
    share = next((f"{rate.median / spread(x.rates).median:.0%}" for x in limits if x.name == line.limit), "")
    return [
        line.name,
        str(line.workers),
        f"{rate.median:,.0f}",
        f"{rate.least:,.0f}..{rate.most:,.0f}",
        share,
        f"{1000 * sum(line.cpu_seconds) / (line.pictures * len(line.cpu_seconds)):.2f}" if line.cpu_seconds else "",
        f"{spread(line.seconds).median:.2f}",
        f"{line.bytes / 2**20:,.1f}",
        f"{line.peak_memory_bytes / 2**20:,.0f}",
    ]


def build_table(lines: Iterable[BuildLine], limits: Sequence[Limit]) -> Table:
    """Return the table of packing."""
    table = _table("packing", BUILD_HEADINGS, text_columns=(0,))
    for line in lines:
        table.add_row(*build_cells(line, limits))
    return table


def _filled(
    title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: tuple[int, ...]
) -> Table:
    table = _table(title, tuple(headings), text_columns=text_columns)
    for row in rows:
        table.add_row(*row)
    return table


def _table(title: str, headings: tuple[str, ...], *, text_columns: tuple[int, ...]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for number, heading in enumerate(headings):
        text = number in text_columns
        table.add_column(heading, justify="left" if text else "right", overflow="fold", no_wrap=not text)
    return table
