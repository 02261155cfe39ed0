"""Puts figures of runs into documents, between markers, so that no number in them is typed by hand.

A document holds ``<!-- figures: NAME -->`` and, later, ``<!-- end of figures -->``; what stands between is replaced.
NAME is the name of a file of results without its ending, with ``-full`` for all tables; without it there are the
figure and the project's goals, or where a run has no goals, its table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.goals import verdicts
from bench.page import cache_note
from bench.results import Results
from bench.table import (
    BUILD_HEADINGS,
    GOAL_HEADINGS,
    LIMIT_HEADINGS,
    LOADER_HEADINGS,
    TRAIN_HEADINGS,
    all_marks,
    build_cells,
    goal_cells,
    limit_cells,
    loader_cells,
    process_parts,
    sections,
    train_cells,
)
from shards.errors import UsageError
from shards.store.atomic import write_atomically

_BLOCK = re.compile(r"(<!-- figures: ([a-z-]+) -->\n)(.*?)(<!-- end of figures -->)", re.DOTALL)


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
    parts = [_header(results)]
    if plot:
        parts.append(f"![pictures per second of each loader, on a logarithmic scale]({plot})")
    if found := verdicts(results):
        parts.append(markdown_table(GOAL_HEADINGS, map(goal_cells, found), left=len(GOAL_HEADINGS)))
        if not full:
            return "\n\n".join(parts)
    parts += _loader_parts(results)
    parts += [markdown_table(headings, rows) for _, headings, rows in process_parts(results)]
    if results.train:
        parts.append(markdown_table(TRAIN_HEADINGS, map(train_cells, results.train)))
    if results.build:
        parts.append(markdown_table(BUILD_HEADINGS, [build_cells(line, results.limits) for line in results.build]))
    if full and results.limits:
        parts += ["**What is possible**", markdown_table(LIMIT_HEADINGS, map(limit_cells, results.limits))]
    if full and results.left:
        parts.append("\n".join(f"- not measured: {left_text(names, reason)}" for reason, names in by_reason(results)))
    return "\n\n".join(parts)


def _header(results: Results) -> str:
    """Say what was measured, where and when, as far as the run knows."""
    environment = results.environment
    ran = f"{environment.started[:10]}, commit {environment.commit or 'unknown'}."
    where = f"{environment.cpu}, {environment.cores} cores"
    if results.kind == "build":
        return f"{where}; {ran}"
    found: set[Any] = {(line.size, line.batch_size) for line in results.train}  # 0 in the settings: the recipe's own
    found = found or {(results.settings.get("size"), results.settings.get("batch_size"))}
    sizes = " and ".join(f"{size} pixels, batch {batch}" for size, batch in sorted(found) if size and batch)
    what = f"{results.data.samples} pictures" + f", {sizes}" * bool(sizes)
    gpu = "; ".join(environment.gpu) or "no GPU"
    return f"{what}; {where}, {gpu}; {ran} {cache_note(results)}".rstrip()


def _loader_parts(results: Results) -> list[str]:
    marks, parts = all_marks(results.lines), []
    for section in sections(results.lines):
        rows = [loader_cells(line, section, results, marks) for line in section.lines]
        parts += [f"**{section.title}**", markdown_table(LOADER_HEADINGS, rows)]
    if marks:
        parts.append("\n".join(f"{number}. {mark}" for number, mark in enumerate(marks, start=1)))
    return parts


def by_reason(results: Results) -> list[tuple[str, list[str]]]:
    """Return each reason why lines were not measured, with their names."""
    found: dict[str, list[str]] = {}
    for left in results.left:
        found.setdefault(left.reason, []).append(left.name)
    return list(found.items())


def left_text(names: Sequence[str], reason: str) -> str:
    """Say which lines were not measured, and why."""
    return f"{', '.join(names)}: {reason}"


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """Return a table in Markdown; so many columns to the left, the others to the right."""
    sides = ["---"] * left + ["---:"] * (len(headings) - left)
    lines = ["| " + " | ".join(headings) + " |", "|" + "|".join(sides) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)
