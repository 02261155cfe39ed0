"""Puts figures of runs into documents, between markers, so that no number in them is typed by hand.

A document holds ``<!-- bench:NAME -->`` and, later, ``<!-- /bench:NAME -->``; what stands between is replaced. NAME is
``loader``, ``train`` or ``build``, with ``-full`` for all columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
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

_BLOCK = re.compile(r"(<!-- bench:([a-z-]+) -->\n)(.*?)(<!-- /bench:\2 -->)", re.DOTALL)
_SHORT = ("loader", "pictures/s", "least..most", "CPU s/1000", "peak MiB")


def update_document(path: Path, runs: Sequence[Results], *, plot: str | None) -> list[str]:
    """Replace what stands between markers by the figures of the runs; return the names of the blocks.

    Args:
        path: of the document, Markdown.
        runs: at most one of each kind.
        plot: address of the loader's figure as the document should show it; None: no figure.

    Raises:
        UsageError: the document has no marker for any of the runs.
    """
    text = path.read_text(encoding="utf-8")
    by_kind = {results.kind: results for results in runs}
    done: list[str] = []

    def replaced(match: re.Match[str]) -> str:
        name = match.group(2)
        kind, full = name.removesuffix("-full"), name.endswith("-full")
        results = next((run for run_kind, run in by_kind.items() if run_kind == kind), None)
        if results is None:
            return match.group(0)
        done.append(name)
        return f"{match.group(1)}{block(results, full=full, plot=plot)}\n{match.group(4)}"

    updated = _BLOCK.sub(replaced, text)
    if not done:
        kinds = ", ".join(f"<!-- bench:{kind} --> ... <!-- /bench:{kind} -->" for kind in by_kind)
        raise UsageError(f"{path} has no place for these figures; put in: {kinds}")
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
    if plot and results.kind == "loader":
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
