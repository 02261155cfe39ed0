"""Lays out a run's tables: in the terminal and in Markdown."""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from bench.results.records import Results
from bench.results.result_tables import Block, ResultTable, blocks, cache_note, took_text

if TYPE_CHECKING:
    from rich.table import Table

PIPE_WIDTH = 140  # characters, where there is no terminal to ask


def print_results(results: Results) -> None:
    """Print all tables of a run on standard output."""
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)
    for block in blocks(results):
        if isinstance(block, ResultTable):
            console.print(_rich_table(block))
            continue
        for number, item in enumerate(block.items, start=1):
            mark = f"[{number}]" if block.numbered else f"{block.title}:"
            console.print(f"{mark} {item}", markup=False, highlight=False)
    notes = (cache_note(results), f"took {took_text(results)}")
    console.print("\n".join(filter(None, notes)), markup=False, highlight=False)


def _rich_table(table: ResultTable) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=table.title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for number, heading in enumerate(table.headings):
        text = number in table.text
        shown.add_column(heading, justify="left" if text else "right", overflow="fold", no_wrap=not text)
    for number, row in enumerate(table.rows):
        shown.add_row(*map(Text, row), style="bold" if number in table.ours else None)
    return shown


def markdown(found: Iterable[Block]) -> list[str]:
    """Return each block in Markdown."""
    parts = []
    for block in found:
        if isinstance(block, ResultTable):
            sides = ["---" if number in block.text else "---:" for number in range(len(block.headings))]
            rows = [block.headings, sides, *([cell.replace("|", "\\|") for cell in row] for row in block.rows)]
            parts.append(f"**{block.title}**\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows))
        elif block.numbered:
            parts.append("\n".join(f"{number}. {item}" for number, item in enumerate(block.items, start=1)))
        else:
            parts.append("\n".join(f"- {block.title}: {item}" for item in block.items))
    return parts
