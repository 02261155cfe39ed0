"""A run as tables and lists of plain strings, to be laid out by :mod:`bench.results.rendering`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, median
from typing import Any, TypeAlias

from msgspec.structs import replace

from bench.results.bounds import bound, share_of_limit
from bench.results.goals import ratio_text, times_baseline, verdicts
from bench.results.records import BASELINE, MIB, Line, LoaderLine, LoaderWork, Repeat, Results

Columns: TypeAlias = Mapping[str, Callable[[Any], str]]


@dataclass(frozen=True)
class ResultTable:
    """A table; cells are text, with code between backticks."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text: tuple[int, ...] = (0,)  # columns that are aligned to the left
    ours: tuple[int, ...] = ()  # rows of petseg's loader
    brief: bool = True  # whether it is shown in documents that do not show all tables


@dataclass(frozen=True)
class ResultList:
    """Some remarks, one a line; numbered where tables refer to them."""

    title: str
    items: tuple[str, ...]
    numbered: bool = False
    brief: bool = True  # whether it is shown in documents that do not show all tables


Block: TypeAlias = ResultTable | ResultList


@dataclass(frozen=True)
class Section:
    """Loaders that did the same work, fastest first; and the tutorial, which reads the source's files in any case."""

    storage: str
    title: str
    lines: tuple[LoaderLine, ...]

    def label(self, line: LoaderLine) -> str:
        """Return a line's name within the section."""
        work = line.work
        name = f"{work.peer} {work.engine}".strip() + (" GPU" if work.device == "cuda" else "")
        return name if work.storage == self.storage else f"{name} ({work.storage})"


def sections(lines: Iterable[LoaderLine]) -> list[Section]:
    """Group lines that did the same: by cache, augmentation, masks and storage.

    A tutorial that would be alone joins the next group of the same work on another storage.
    """
    groups: dict[LoaderWork, list[LoaderLine]] = {}
    for line in lines:
        groups.setdefault(replace(line.work, peer="", engine="", device=""), []).append(line)
    for work, group in list(groups.items()):
        others = [x for x in groups if x != work and replace(x, storage="") == replace(work, storage="")]
        if others and all(line.work.peer == BASELINE for line in group):
            groups[others[0]] += groups.pop(work)
    found = []
    for work, group in groups.items():
        what = "training augmentation" if work.augment else "evaluation"
        form = "one-hot masks" if work.mask == "onehot" else "class-index masks"
        title = f"{work.storage} storage, {what}, {form}, page cache {work.cache}"
        found.append(Section(work.storage, title, tuple(sorted(group, key=lambda line: -line.rate))))
    return found


def blocks(results: Results) -> list[Block]:
    """Return everything that a run has to show, in order; without tables that would be empty."""
    found: list[Block] = [*_goals(results), *_loaders(results), *_training(results)]
    limits = results.limits
    if results.build:
        rates = {limit.name: limit.rate for limit in limits}
        found.append(_table("packing", results.build, {
            "packing": lambda x: x.name,
            "workers": lambda x: str(x.workers),
            **_rates("images/s"),
            "of limit": lambda x: f"{x.rate / rates[x.limit]:.0%}" if x.limit in rates else "",
            "CPU s/1000": lambda x: f"{x.cpu_seconds_per_thousand:.2f}",
            "seconds": lambda x: f"{median(x.seconds):.2f}",
            "MiB written": lambda x: f"{x.bytes / MIB:,.1f}",
            "peak MiB": _memory,
        }))  # fmt: skip
    if limits:
        found.append(_table("what is possible: each part alone, on all cores", limits, {
            "limit": lambda x: x.name,
            "of": lambda x: x.storage or x.mask,
            **_rates("images/s"),
            "how": lambda x: x.how,
        }, text=(0, 1, 4), brief=False))  # fmt: skip
    reasons: dict[str, list[str]] = {}
    for one in results.skipped:
        reasons.setdefault(one.reason, []).append(one.name)
    if reasons:
        items = tuple(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())
        found.append(ResultList("skipped", items, brief=False))
    return found


def headline(results: Results) -> str:
    """Say what was measured, where and when, as far as the run knows."""
    environment = results.environment
    ran = f"{environment.started[:10]}, commit {environment.commit or 'unknown'}."
    where = f"{environment.cpu}, {environment.cores} cores"
    if results.kind == "build":
        return f"{where}; {ran}"
    settings = results.settings
    found: set[Any] = {(line.size, line.batch_size) for line in results.train}  # where the recipe says it
    found = found or {(settings.get("size"), settings.get("batch_size"))}
    sizes = " and ".join(f"{size} pixels, batch {batch}" for size, batch in sorted(found) if size and batch)
    what = f"{results.data.samples} images of {results.data.classes} classes" + f", {sizes}" * bool(sizes)
    if settings.get("fit", "stretch") not in ("stretch", None):
        what += f", --fit {settings['fit']}"
    return f"{what}; {where}, {'; '.join(environment.gpu) or 'no GPU'}; {ran} {cache_note(results)}"


def cache_note(results: Results) -> str:
    """Say which of the data fit into memory or even into the processor's cache, since that flatters every loader."""
    cache, sizes = results.environment.last_level_cache_bytes, results.data.bytes
    inside = [name for name, size in sizes.items() if cache is not None and size < cache]
    if inside:
        names = " and ".join(part for part in (", ".join(inside[:-1]), inside[-1]) if part)
        return f"The {names} data fit into the processor's cache; larger data will be slower to read."
    if all(size < results.environment.memory_bytes for size in sizes.values()):
        return "The data fit into memory, not into the processor's cache." if cache else "The data fit into memory."
    return "The data do not fit into memory."


def took_text(results: Results) -> str:
    """Say how long a run took, and each part of it that took half a second or more."""
    parts = ", ".join(f"{name} {seconds:,.0f}" for name, seconds in results.parts.items() if seconds >= 0.5)
    return f"{results.environment.seconds:,.0f} s{': ' + parts if parts else ''}"


def _table(title: str, lines: Iterable[Any], columns: Columns, **how: Any) -> ResultTable:
    rows = tuple(tuple(cell(line) for cell in columns.values()) for line in lines)
    return ResultTable(title, tuple(columns), rows, **how)


def _rates(heading: str) -> dict[str, Callable[[Line], str]]:
    return {
        heading: lambda line: f"{line.rate:,.0f}",
        "min..max": lambda line: f"{min(line.rates):,.0f}..{max(line.rates):,.0f}",
    }


def _memory(line: Line) -> str:
    return f"{line.peak_memory_bytes / MIB:,.0f}"


def _batch_ms(repeats: Sequence[Repeat], which: int) -> float:
    return median(repeat.batch_ms[which] for repeat in repeats if repeat.batch_ms)


def _goals(results: Results) -> Iterator[Block]:
    if found := verdicts(results):
        yield _table("the project's goals", found, {
            "goal": lambda x: x.goal,
            "asked": lambda x: x.asked,
            "measured": lambda x: x.measured,
            "reached": lambda x: "yes" if x.reached else "no",
            "what limits it": lambda x: x.limited_by,
        }, text=(0, 1, 2, 3, 4))  # fmt: skip


def _label(section: Section, caveats: list[str], line: LoaderLine) -> str:
    return section.label(line) + "".join(f"[{caveats.index(caveat) + 1}]" for caveat in line.caveats)


def _loaders(results: Results) -> Iterator[Block]:
    caveats = list(dict.fromkeys(caveat for line in results.lines for caveat in line.caveats))
    for section in sections(results.lines):
        yield _table(section.title, section.lines, {
            "loader": partial(_label, section, caveats),
            **_rates("images/s"),
            "tutorial": lambda x: _if_known(times_baseline(x, results), ratio_text),
            "of limit": lambda x: _if_known(share_of_limit(x, results.limits), "{:.0%}".format),
            "bound by": lambda x: bound(x, results.limits, results.environment.cores),
            "p95 batch ms": lambda x: f"{_batch_ms(x.repeats, 1):,.1f}",
            "CPU s/1000": lambda x: f"{x.cpu_seconds_per_thousand:,.2f}",
            "peak MiB": _memory,
            "workers": lambda x: str(x.workers or "own") + ("" if x.steady else " (not steady)"),
        }, text=(0, 5, 9), ours=tuple(i for i, line in enumerate(section.lines) if line.work.engine))  # fmt: skip
    if caveats:
        yield ResultList("caveats: what a loader does less or otherwise", tuple(caveats), numbered=True)


def _training(results: Results) -> Iterator[Block]:
    if results.train:
        yield _table("training, images/s", results.train, {
            "training": lambda x: x.name,
            "loader alone": lambda x: f"{median(repeat.rate for repeat in x.loader):,.0f}",
            "compute-only": lambda x: f"{median(repeat.rate for repeat in x.compute):,.0f}",
            **_rates("end-to-end"),
            "stall": lambda x: f"{x.stall:.1%}",
            "waiting": lambda x: f"{median(r.wait_seconds / r.seconds for r in x.repeats):.1%}",
            "step ms p50 / p95": lambda x: f"{_batch_ms(x.repeats, 0):,.1f} / {_batch_ms(x.repeats, 1):,.1f}",
            "peak MiB": lambda x: _memory(x)
            + ("" if x.peak_gpu_bytes is None else f" + {x.peak_gpu_bytes / MIB:,.0f} GPU"),
        })  # fmt: skip
    if rows := [line for line in (*results.lines, *results.train) if line.repeats[0].gpu]:
        yield _table("the GPU's side, mean of the repeats", rows, {
            "on the GPU, a repeat": lambda x: x.name,
            "host waited s": lambda x: f"{fmean(r.wait_seconds for r in x.repeats):.3f}",
            "device s, by events": lambda x: f"{fmean(r.gpu.device_seconds for r in x.repeats):.3f}",
            "MiB moved to it": lambda x: f"{fmean(r.gpu.moved_bytes for r in x.repeats) / MIB:,.1f}",
        })  # fmt: skip


def _if_known(value: float | None, text: Callable[[float], str]) -> str:
    return "" if value is None else text(value)
