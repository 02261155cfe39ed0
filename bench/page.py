"""A run as one HTML page that needs no other file: figure, tables, marks, what was not measured, where it ran."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

from bench.goals import verdicts
from bench.plot import draw_figure
from bench.results import Results
from bench.table import (
    BUILD_HEADINGS,
    GOAL_HEADINGS,
    GPU_HEADINGS,
    LIMIT_HEADINGS,
    LOADER_HEADINGS,
    TRAIN_HEADINGS,
    all_marks,
    build_cells,
    goal_cells,
    gpu_rows,
    limit_cells,
    loader_cells,
    process_parts,
    sections,
    took_text,
    train_cells,
)

_CODE = re.compile("`([^`]+)`")
_STYLE = """
:root { color-scheme: light }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1e293b;
       background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #e2e8f0 }
th { border-bottom: 2px solid #94a3b8; vertical-align: bottom }
th, td { white-space: nowrap } table.text td, td.text { white-space: normal }
figure { margin: 0 }
td:first-child, th:first-child, td.text, table.text td, table.text th { text-align: left }
tr.ours td { color: #c2410c; font-weight: 600 }
.scroll { overflow-x: auto } svg { max-width: 100%; height: auto }
code { background: #f1f5f9; padding: .1rem .3rem }
"""


def render_page(results: Results) -> str:
    """Return the page."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'>",
        f"<title>petseg-bench {results.kind}</title><style>{_STYLE}</style>",
        f"<h1>petseg-bench {results.kind}</h1>",
        f"<p>{escape(_summary(results))}</p>",
        f"<figure class=scroll>{_svg(results)}</figure>",
    ]
    if found := verdicts(results):
        rows = [goal_cells(verdict) for verdict in found]
        parts += ["<h2>The project's goals</h2>", _table(GOAL_HEADINGS, rows, text=True)]
    parts += _loader_parts(results)
    for title, headings, rows in process_parts(results):
        parts += [f"<h2>{escape(title.capitalize())}</h2>", _table(headings, rows)]
    if results.train:
        parts += ["<h2>Training, pictures/s</h2>", _table(TRAIN_HEADINGS, map(train_cells, results.train))]
    if results.build:
        parts += [
            "<h2>Packing</h2>",
            _table(BUILD_HEADINGS, [build_cells(line, results.limits) for line in results.build]),
        ]
    if rows := gpu_rows(results):
        parts += ["<h2>The GPU's side</h2>", _table(GPU_HEADINGS, rows)]
    if results.limits:
        parts += [
            "<h2>What is possible: each part alone, on all cores</h2>",
            _table(LIMIT_HEADINGS, map(limit_cells, results.limits)),
        ]
    if results.left:
        items = "".join(f"<li>{escape(left.name)}: {escape(left.reason)}</li>" for left in results.left)
        parts.append(f"<h2>Not measured, and why</h2><ul>{items}</ul>")
    parts += ["<h2>Where and how</h2>", _environment(results)]
    return "\n".join(parts) + "\n"


def _loader_parts(results: Results) -> list[str]:
    marks = all_marks(results.lines)
    parts = []
    for section in sections(results.lines):
        rows = [loader_cells(line, section, results, marks) for line in section.lines]
        ours = [bool(line.engine) for line in section.lines]
        parts += [f"<h2>{escape(section.title)}</h2>", _table(LOADER_HEADINGS, rows, ours=ours)]
    if marks:
        items = "".join(f"<li>{escape(mark)}</li>" for mark in marks)
        parts.append(f"<h2>Marks: what a loader does less, or otherwise</h2><ol>{items}</ol>")
    checks = [
        [
            line.name,
            str(line.check.delivered),
            str(line.check.missing),
            str(line.check.repeated),
            f"{line.check.image_difference:.2f}",
            f"{line.check.image_worst:.2f}",
            f"{line.check.mask_difference:.4%}",
        ]
        for line in results.lines
    ]
    if checks:
        headings = ("checked before timing", "delivered", "missing", "repeated", "picture differs by, levels", "worst",
                    "mask pixels that differ")  # fmt: skip
        parts += ["<h2>What was delivered</h2>", _table(headings, checks)]
    return parts


def _summary(results: Results) -> str:
    environment, data = results.environment, results.data
    stored = ", ".join(f"{name} {size / 2**20:,.1f} MiB" for name, size in data.bytes.items())
    return (
        f"{data.samples} pictures of split {data.split} ({stored}) on {environment.cpu}, {environment.cores} cores, "
        f"{environment.memory_bytes / 2**30:,.0f} GiB. {cache_note(results)}"
    )


def cache_note(results: Results) -> str:
    """Say which of the data fit into memory or even into the processor's cache, since that flatters every loader."""
    environment = results.environment
    cache = environment.last_level_cache_bytes
    inside = [name for name, size in results.data.bytes.items() if cache is not None and size < cache]
    if inside:
        return f"The {_listed(inside)} data fit into the processor's cache; larger data will be slower to read."
    if all(size < environment.memory_bytes for size in results.data.bytes.values()):
        return "The data fit into memory, not into the processor's cache." if cache else "The data fit into memory."
    return "The data do not fit into memory."


def _listed(names: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _environment(results: Results) -> str:
    environment = results.environment
    versions = ", ".join(f"{name} {version}" for name, version in environment.versions.items())
    rows = [
        ("command", environment.command),
        ("started", f"{environment.started}, took {took_text(results)}"),
        ("commit", environment.commit or "unknown"),
        ("system", environment.system),
        ("GPU", "; ".join(environment.gpu) or "none"),
        ("load average before and after", f"{environment.load_before}, {environment.load_after}"),
        ("versions", versions),
        ("data fingerprint", results.data.fingerprint),
        ("options", ", ".join(f"{name}={value}" for name, value in results.settings.items())),
    ]
    body = "".join(f"<tr><td>{escape(name)}<td class=text>{escape(str(value))}" for name, value in rows)
    return f"<div class=scroll><table>{body}</table></div>"


def _table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], *, ours: Sequence[bool] = (), text: bool = False
) -> str:
    head = "".join(f"<th>{escape(heading)}" for heading in headings)
    body = []
    for number, row in enumerate(rows):
        kind = " class=ours" if number < len(ours) and ours[number] else ""
        body.append(f"<tr{kind}>" + "".join(f"<td>{_marked(cell)}" for cell in row))
    return f"<div class=scroll><table{' class=text' if text else ''}><tr>{head}{''.join(body)}</table></div>"


def _marked(text: str) -> str:
    """Return a cell as HTML, with `code` between backticks."""
    return _CODE.sub(r"<code>\1</code>", escape(text))


def _svg(results: Results) -> str:
    """Return the figure without the XML prologue, to stand within HTML."""
    text = draw_figure(results).decode()
    return text[text.index("<svg") :]
