"""Puts figures of runs into documents, between markers, so that no number in them is typed by hand.

A document holds ``<!-- figures: NAME -->`` and, later, ``<!-- end of figures -->``; what stands between is replaced.
NAME is the name of a file of results without its ending, with ``-full`` for all tables; without it there are the
figure and the project's goals, or where a run has no goals, its table.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from bench.results.goals import verdicts
from bench.results.records import Results
from bench.results.rendering import markdown
from bench.results.result_tables import blocks, headline
from shards.errors import UsageError
from shards.store.atomic import write_atomically

_BLOCK = re.compile(r"(<!-- figures: ([a-z0-9-]+) -->\n)(.*?)(<!-- end of figures -->)", re.DOTALL)


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
    shown = [block for block in blocks(results) if full or block.brief]
    if verdicts(results) and not full:
        shown = shown[:1]
    figure = [f"![images per second of each loader, on a logarithmic scale]({plot})"] if plot else []
    return "\n\n".join([headline(results), *figure, *markdown(shown)])
