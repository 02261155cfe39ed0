"""A run in Markdown: printed, and put into documents between markers, so that no number in them is typed by hand.

A document holds ``<!-- figures: NAME -->`` and, later, ``<!-- end of figures -->``; what stands between is replaced.
NAME is the name of a file of results without its ending, with ``-full`` for all tables; without it there are the
figure and the project's goals, or where a run has no goals, its table.
"""

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import jinja2
from msgspec.structs import replace

from bench.results.goals import bound, ratio_text, share_of_limit, times_baseline, verdicts
from bench.results.records import BASELINE, LoaderLine, LoaderWork, Results
from shards.errors import UsageError, printable
from shards.store.atomic import write_atomically

PIPE_WIDTH = 140  # characters, where there is no terminal to ask
_BLOCK = re.compile(r"(<!-- figures: ([a-z0-9-]+) -->\n)(.*?)(<!-- end of figures -->)", re.DOTALL)


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


def markdown(results: Results, *, full: bool, goals_only: bool = False) -> str:
    """Return a run's tables; those of limits and of what was skipped, only with ``full``."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=lambda x: printable(x).replace("|", "\\|") if type(x) is str else x,
        autoescape=False,
    )  # fmt: skip
    environment.filters |= {"f": format, "median": median, "mean": fmean}
    text = environment.get_template("results.md.jinja").render(
        run=results, full=full, goals_only=goals_only, goals=verdicts(results), sections=sections(results.lines),
        caveats=list(dict.fromkeys(caveat for line in results.lines for caveat in line.caveats)),
        on_gpu=[line for line in (*results.lines, *results.train) if line.repeats[0].gpu],
        waiting=lambda line: median(repeat.wait_seconds / repeat.seconds for repeat in line.repeats),
        bound=bound, ratio_text=ratio_text, share_of_limit=share_of_limit, times_baseline=times_baseline,
    )  # fmt: skip
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def print_results(results: Results) -> None:
    """Print all tables of a run on standard output."""
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)
    console.print(Markdown(markdown(results, full=True)))
    notes = (cache_note(results), f"took {took_text(results)}")
    console.print("\n".join(map(printable, filter(None, notes))), markup=False, highlight=False)


def update_document(path: Path, runs: Mapping[str, Results], *, plot: str | None) -> list[str]:
    """Replace what stands between markers by the figures of the runs, by name; return the names of the blocks.

    ``plot`` is the address of the first run's figure. A :class:`UsageError` says that there is no marker for any run.
    """
    text, done = path.read_text(encoding="utf-8"), list[str]()

    def replaced(match: re.Match[str]) -> str:
        marker = match.group(2)
        name, full = marker.removesuffix("-full"), marker.endswith("-full")
        if name not in runs:
            return match.group(0)
        done.append(marker)
        made = document_block(runs[name], full=full, plot=plot if name == next(iter(runs)) else None)
        return f"{match.group(1)}{made}\n{match.group(4)}"

    updated = _BLOCK.sub(replaced, text)
    if not done:
        kinds = " or ".join(f"<!-- figures: {kind} -->" for kind in runs)
        raise UsageError(f"{path} has no place for these figures; put in {kinds} and <!-- end of figures -->")
    if updated != text:
        write_atomically(path, updated)
    return done


def document_block(results: Results, *, full: bool, plot: str | None = None) -> str:
    """Return the Markdown of one run: where it ran, its figure, and its goals or tables."""
    figure = [f"![images per second of each loader, on a logarithmic scale]({plot})"] if plot else []
    goals_only = bool(verdicts(results)) and not full
    return "\n\n".join([headline(results), *figure, markdown(results, full=full, goals_only=goals_only)])


def headline(results: Results) -> str:
    """Say what was measured, where and when, as far as the run knows."""
    environment = results.environment
    ran = f"{environment.started[:10]}, commit {environment.commit or 'unknown'}."
    where = f"{environment.cpu}, {environment.cores} cores"
    if results.kind == "build":
        return printable(f"{where}; {ran}")
    settings = results.settings
    found: set[Any] = {(line.size, line.batch_size) for line in results.train}  # where the recipe says it
    found = found or {(settings.get("size"), settings.get("batch_size"))}
    sizes = " and ".join(f"{size} pixels, batch {batch}" for size, batch in sorted(found) if size and batch)
    what = f"{results.data.samples} images of {results.data.classes} classes" + f", {sizes}" * bool(sizes)
    if settings.get("fit", "stretch") not in ("stretch", None):
        what += f", --fit {settings['fit']}"
    return printable(f"{what}; {where}, {'; '.join(environment.gpu) or 'no GPU'}; {ran} {cache_note(results)}")


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
