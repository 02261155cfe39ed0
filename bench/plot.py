"""The figure of a run: one panel a storage, pictures per second on a logarithmic axis, least and most as whiskers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from bench.results import Results, TrainLine
from bench.statistics import spread
from bench.table import Section, sections
from bench.verdict import limits_for

OURS, OTHERS, EDGE = "#c2410c", "#475569", "#94a3b8"
ROW_INCHES = 0.3
_BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}  # a number stays legible over lines


def draw_figure(results: Results, *, file_format: str = "svg") -> bytes:
    """Return the figure of a run as SVG or PNG; for ``loader`` all groups of lines, for ``train`` the modes."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "petseg"  # the same bytes each time
    from matplotlib import pyplot as plt

    groups = sections(results.lines)
    if groups:
        figure = _loader_figure(plt, groups, results)
    elif results.train:
        figure = _train_figure(plt, results.train)
    else:
        figure = _build_figure(plt, results)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=file_format, dpi=150, metadata={"Date": None} if file_format == "svg" else None)
    plt.close(figure)
    return buffer.getvalue()


def _loader_figure(plt: Any, groups: Sequence[Section], results: Results) -> Any:
    heights = [len(group.lines) + 1.4 for group in groups]
    figure, axes = plt.subplots(
        len(groups), 1, figsize=(8.5, ROW_INCHES * sum(heights) + 0.9), sharex=True, squeeze=False,
        gridspec_kw={"height_ratios": heights}, layout="constrained",
    )  # fmt: skip
    for axis, group in zip(axes[:, 0], groups, strict=True):
        lines = group.lines
        labels, rates = [group.label(line) for line in lines], [line.rates for line in lines]
        _dots(axis, labels, rates, ours=[bool(line.engine) for line in lines], marked=[bool(x.marks) for x in lines])
        axis.set_title(group.title, loc="left", fontsize=9, fontweight="bold")
        own = next(line for line in lines if line.storage == group.storage)
        for name, limit in limits_for(own, results.limits).items():
            if name == "decode" and own.device == "cpu":
                axis.axvline(limit, color=EDGE, linestyle="--", linewidth=1, zorder=0)
                axis.annotate("decoding alone", (limit, 1), xycoords=("data", "axes fraction"), xytext=(3, -9),
                              textcoords="offset points", fontsize=6.5, color=OTHERS)  # fmt: skip
    last = axes[-1, 0]
    all_rates = [rate for line in results.lines for rate in line.rates]
    _rates_along(last, min(all_rates) / 1.6, max(all_rates) * 3)
    environment = results.environment
    last.set_xlabel(
        f"pictures per second (log scale; dot: median, bar: least to most of {len(results.lines[0].repeats)} repeats; "
        f"open dot: does less or otherwise)\n{results.settings.get('size')} px, batch "
        f"{results.settings.get('batch_size')}, {results.data.samples} pictures; "
        f"{environment.cpu}, {environment.cores} cores",
        fontsize=7.5,
    )
    return figure


def _train_figure(plt: Any, lines: Sequence[TrainLine]) -> Any:
    figure, axis = plt.subplots(figsize=(8.5, ROW_INCHES * 3 * len(lines) + 1.3), layout="constrained")
    labels, rates, ours = [], [], []
    for line in lines:
        for mode, values in (("alone", line.loader_rates), ("in memory", line.memory_rates), ("real", line.real_rates)):
            labels.append(f"{line.name}: {mode}")
            rates.append(list(values))
            ours.append(mode == "real")
    _dots(axis, labels, rates, ours=ours, marked=[False] * len(labels))
    _rates_along(axis, min(map(min, rates)) / 1.3, max(map(max, rates)) * 1.6)
    axis.set_xlabel("pictures per second (log scale; dot: median, bar: least to most)", fontsize=7.5)
    return figure


def _build_figure(plt: Any, results: Results) -> Any:
    figure, axis = plt.subplots(figsize=(8.5, ROW_INCHES * len(results.build) + 1.3), layout="constrained")
    labels = [line.name.replace(", 1 workers", ", 1 worker") for line in results.build]
    ours = [line.name.startswith("petseg") for line in results.build]
    _dots(axis, labels, [line.rates for line in results.build], ours=ours, marked=[False] * len(labels))
    rates = [rate for line in results.build for rate in line.rates]
    _rates_along(axis, min(rates) / 1.3, max(rates) * 1.6)
    axis.set_xlabel("pictures per second (log scale; dot: median, bar: least to most)", fontsize=7.5)
    return figure


def _rates_along(axis: Any, lowest: float, highest: float) -> None:
    """Make the horizontal axis a logarithmic one of pictures per second, with as many numbers on it as can be read."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_xscale("log")
    axis.set_xlim(lowest, highest)
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if highest < 100 * lowest else (1.0,)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _dots(
    axis: Any, labels: Sequence[str], rates: Sequence[Sequence[float]], *, ours: Sequence[bool], marked: Sequence[bool]
) -> None:
    for row, values in enumerate(rates):
        rate, colour = spread(values), OURS if ours[row] else OTHERS
        axis.plot([rate.least, rate.most], [row, row], color=colour, linewidth=2.5, alpha=0.45, solid_capstyle="butt")
        axis.plot(rate.median, row, "o", markersize=6, markeredgecolor=colour, color="white" if marked[row] else colour)
        axis.annotate(f"{rate.median:,.0f}", (rate.most, row), xytext=(6, 0), textcoords="offset points", va="center",
                      fontsize=7.5, color=colour, bbox=_BEHIND)  # fmt: skip
    axis.set_yticks(range(len(labels)), labels, fontsize=8)
    axis.set_ylim(len(labels) - 0.4, -0.8)
    axis.grid(axis="x", which="major", color="#e2e8f0", linewidth=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=7.5)
