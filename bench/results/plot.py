"""The figure of a run: images per second on a logarithmic axis, the range of the repeats as bars."""

from statistics import median
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from bench.results.goals import limits_for
from bench.results.records import Results
from bench.results.result_page import sections
from shards.errors import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OURS, OTHERS, EDGE = "#c2410c", "#475569", "#94a3b8"
ROW_INCHES = 0.3
_BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}  # a number stays legible over lines


class Row(NamedTuple):
    """One dot with its bar; an open dot has caveats."""

    label: str
    rates: list[float]
    ours: bool
    open: bool = False


class Panel(NamedTuple):
    """Rows that may be compared with each other; ``limit`` is where decoding alone would be."""

    title: str
    rows: list[Row]
    limit: float | None = None


def panels(results: Results) -> list[Panel]:
    """Return what is drawn: a panel for each group of loaders, or one for training or packing."""
    found = []
    for section in sections(results.lines):
        rows = [Row(section.label(x), x.rates, bool(x.work.engine), bool(x.caveats)) for x in section.lines]
        own = next(line for line in section.lines if line.work.storage == section.storage)
        limit = limits_for(own, results.limits).get("decode") if own.work.device == "cpu" else None
        found.append(Panel(section.title, rows, limit))
    others = [Row(line.name, line.rates, line.name.startswith("petseg")) for line in results.build]
    for line in results.train:
        modes = {"loader": line.loader, "compute": line.compute, "end-to-end": line.repeats}
        others += [Row(f"{line.name}: {mode}", [repeat.rate for repeat in repeats], mode == "end-to-end")
                   for mode, repeats in modes.items()]  # fmt: skip
    return [*found, Panel("", others)] if others else found


def draw_figure(results: Results, kind: Literal["svg", "png"] = "svg") -> bytes:
    """Return the figure of a run as SVG or PNG; the same bytes each time."""
    import matplotlib as mpl

    from petseg.report.figures import picture_bytes, plain_text

    with plain_text(), mpl.rc_context({"svg.hashsalt": "petseg"}):
        return picture_bytes(_figure(results), kind)


def _figure(results: Results) -> "Figure":
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    found, environment = panels(results), results.environment
    rows, heights = [row for panel in found for row in panel.rows], [len(panel.rows) + 1.4 for panel in found]
    figure = Figure(figsize=(8.5, ROW_INCHES * sum(heights) + 0.9), layout="constrained", dpi=150)
    axes = figure.subplots(len(found), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axis, panel in zip(axes, found, strict=True):
        _draw_panel(axis, panel)
    last, least, most = axes[-1], min(min(row.rates) for row in rows), max(max(row.rates) for row in rows)
    last.set(xscale="log", xlim=(least / 1.5, most * 3))
    last.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if most < 100 * least else (1.0,)))
    last.xaxis.set_major_formatter("{x:,.0f}")
    last.xaxis.set_minor_formatter(NullFormatter())
    opened = "; open dot: does less or otherwise" if any(row.open for row in rows) else ""
    text = f"images/s (log scale; dot: median, bar: min to max of {len(rows[0].rates)} repeats{opened})\n"
    text += printable(f"{results.data.samples} images; {environment.cpu}, {environment.cores} cores")
    last.set_xlabel(text, fontsize=7.5)
    return figure


def _draw_panel(axis: Any, panel: Panel) -> None:
    axis.set_title(printable(panel.title), loc="left", fontsize=9, fontweight="bold")
    if panel.limit is not None:
        axis.axvline(panel.limit, color=EDGE, linestyle="--", linewidth=1, zorder=0)
        axis.annotate("decoding alone", (panel.limit, 1), xycoords=("data", "axes fraction"), xytext=(3, -9),
                      textcoords="offset points", fontsize=6.5, color=OTHERS)  # fmt: skip
    for at, row in enumerate(panel.rows):
        colour, middle, most = OURS if row.ours else OTHERS, median(row.rates), max(row.rates)
        axis.plot([min(row.rates), most], [at, at], color=colour, linewidth=2.5, alpha=0.45, solid_capstyle="butt")
        axis.plot(middle, at, "o", markersize=6, markeredgecolor=colour, color="white" if row.open else colour)
        axis.annotate(f"{middle:,.0f}", (most, at), xytext=(6, 0), textcoords="offset points", va="center",
                      fontsize=7.5, color=colour, bbox=_BEHIND)  # fmt: skip
    axis.set_yticks(range(len(panel.rows)), [printable(row.label) for row in panel.rows], fontsize=8)
    axis.set_ylim(len(panel.rows) - 0.4, -0.8)
    axis.grid(axis="x", which="major", color="#e2e8f0", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="both", length=0, labelsize=7.5)
