"""Puts figures of runs into documents, between markers, so that no number in them is typed by hand.

A document holds ``<!-- figures: NAME -->`` and, later, ``<!-- end of figures -->``; what stands between is replaced.
NAME is the name of a file of results without its ending, with ``-full`` for all columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bench.page import cache_note
from bench.results import Results
from bench.table import (
    BUILD_HEADINGS,
    LIMIT_HEADINGS,
    LOADER_HEADINGS,
    TRAIN_HEADINGS,
    all_marks,
    build_cells,
    limit_cells,
    loader_cells,
    sections,
    train_cells,
)
from shards.errors import UsageError
from shards.files import write_atomically

_BLOCK = re.compile(r"(<!-- figures: ([a-z-]+) -->\n)(.*?)(<!-- end of figures -->)", re.DOTALL)
_SHORT = ("loader", "pictures/s", "least..most", "CPU s/1000", "peak MiB")


def update_document(path: Path, runs: Mapping[str, Results], *, plot: str | None) -> list[str]:
    """Replace what stands between markers by the figures of the runs; return the names of the blocks.

    Args:
        path: of the document, Markdown.
        runs: by name.
        plot: address of the first run's figure as the document should show it; None: no figure.

    Raises:
        UsageError: the document has no marker for any of the runs.
    """
    text = path.read_text(encoding="utf-8")
    shown = next(iter(runs), "")
    done: list[str] = []

    def replaced(match: re.Match[str]) -> str:
        place = match.group(2)
        name, full = place.removesuffix("-full"), place.endswith("-full")
        if name not in runs:
            return match.group(0)
        done.append(place)
        made = block(runs[name], full=full, plot=plot if name == shown else None)
        return f"{match.group(1)}{made}\n{match.group(4)}"

    updated = _BLOCK.sub(replaced, text)
    if not done:
        kinds = " or ".join(f"<!-- figures: {kind} -->" for kind in runs)
        raise UsageError(f"{path} has no place for these figures; put in {kinds} and <!-- end of figures -->")
    if updated != text:
        write_atomically(path, updated)
    return done


def block(results: Results, *, full: bool, plot: str | None = None) -> str:
    """Return the Markdown of one run: where it ran, its tables, its marks."""
    environment, data = results.environment, results.data
    parts = [
        f"{data.samples} pictures, {results.settings.get('size')} pixels, batch {results.settings.get('batch_size')}; "
        f"{environment.cpu}, {environment.cores} cores, "
        f"{'; '.join(environment.gpu) or 'no GPU'}; {environment.started[:10]}, commit {environment.commit}. "
        f"{cache_note(results)}"
        if results.kind != "build"
        else f"{environment.cpu}, {environment.cores} cores; {environment.started[:10]}, commit {environment.commit}."
    ]
    if plot:
        parts.append(f"![pictures per second of each loader, on a logarithmic scale]({plot})")
    marks = all_marks(results.lines)
    for title, lines in sections(results.lines):
        rows = [loader_cells(line, results, marks) for line in lines]
        columns = range(len(LOADER_HEADINGS)) if full else [LOADER_HEADINGS.index(heading) for heading in _SHORT]
        shown = [[row[column] for column in columns] for row in rows]
        parts += [f"**{title}**", markdown_table([LOADER_HEADINGS[column] for column in columns], shown)]
    if marks:
        parts.append("\n".join(f"{number}. {mark}" for number, mark in enumerate(marks, start=1)))
    if results.train:
        parts.append(markdown_table(TRAIN_HEADINGS, map(train_cells, results.train)))
    if results.build:
        parts.append(markdown_table(BUILD_HEADINGS, [build_cells(line, results.limits) for line in results.build]))
    if full and results.limits:
        parts += ["**What is possible**", markdown_table(LIMIT_HEADINGS, map(limit_cells, results.limits))]
    if full and results.left:
        parts.append("\n".join(f"- not measured: {left.name}: {left.reason}" for left in results.left))
    return "\n\n".join(parts)


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown; the first column to the left, the others to the right."""
    lines = ["| " + " | ".join(headings) + " |", "|" + "|".join(["---"] + ["---:"] * (len(headings) - 1)) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)
