"""The curves of a run: loss, IoU per class and learning rate over the epochs."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from petseg.report.figures import MANY, Kind, extremes, floats, line_colour, picture_bytes, plain_text, shown_name, unit
from petseg.runs.history import History, judged_part, occurring
from shards.format.labels import Labels

_NAMED = 3  # of many classes, this many of the best and of the worst have a colour and a name
# Theirs here: the classes' own colours would be too alike. Okabe and Ito's, distinguishable with any colour vision.
_DISTINCT = ("#009e73", "#0072b2", "#56b4e9", "#d55e00", "#e69f00", "#cc79a7")


def draw_curves(history: History, *, labels: Labels, kind: Kind = "png") -> bytes:
    """Return a PNG or an SVG of a run's curves; ``history`` is metrics.jsonl, at least one epoch."""
    with plain_text():
        return picture_bytes(_figure(history, labels), kind)


def _figure(history: History, labels: Labels) -> Figure:
    many = len(labels) > MANY
    figure = Figure(figsize=(14, 4) if many else (13, 4), layout="constrained", dpi=110)
    loss, iou, rate = figure.subplots(1, 3, width_ratios=(1, 1.6, 1) if many else (1, 1, 1))
    epochs = [entry["epoch"] for entry in history]
    style: dict[str, Any] = {"marker": "o", "markersize": 3} if len(history) < 40 else {}
    part, judged = judged_part(history)
    judged_epochs = [entry["epoch"] for entry in judged]

    loss.plot(epochs, [entry["train"]["loss"] for entry in history], label="training", color="#7f7f7f", **style)
    if part == "val":
        values = [entry["val"]["loss"] for entry in judged]
        loss.plot(judged_epochs, values, label="validation", color="#d55e00", **style)
    loss.set(title="Loss", xlabel="epoch", ylim=(0, None))
    loss.legend(frameon=False)

    best = max(judged, key=lambda entry: entry[part]["mean_iou"])
    (_plot_all if not many else _plot_extremes)(iou, [entry[part] for entry in judged], judged_epochs, labels, style)
    name = "validation" if part == "val" else "training"
    iou.set(title=f"IoU, {name}: best mean {best[part]['mean_iou']:.3f} in epoch {best['epoch']}", ylim=(0, 1))
    iou.set_xlabel("epoch")

    rate.plot(epochs, [entry["learning_rate"] for entry in history], color="black", **style)
    rate.set(title="Learning rate at the epoch's end", xlabel="epoch", ylim=(0, None))
    for axes in (loss, iou, rate):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.set_xlim(0.5, max(epochs[-1], 2) + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _plot_all(axes: Axes, scores: History, epochs: list[int], labels: Labels, style: dict[str, Any]) -> None:
    """Draw one line for each class, and the mean."""
    for index, name in enumerate(labels.names):
        colour = unit(line_colour(labels, index))
        axes.plot(epochs, floats([s["iou"][index] for s in scores]), label=shown_name(name), color=colour, **style)
    axes.plot(epochs, [s["mean_iou"] for s in scores], label="mean", color="black", linewidth=2, **style)
    axes.legend(frameon=True, framealpha=0.7, edgecolor="none", loc="best", ncols=2)


def _plot_extremes(axes: Axes, scores: History, epochs: list[int], labels: Labels, style: dict[str, Any]) -> None:
    """Draw every class in faint grey, the mean in black, and the last epoch's best and worst classes in colour."""
    last = scores[-1]["iou"]
    best, worst = extremes(occurring(scores[-1]), _NAMED)
    named = [*best, *reversed(worst)]
    for index in range(len(labels)):
        if index not in named:
            values = floats([s["iou"][index] for s in scores])
            axes.plot(epochs, values, color="#b9c0c6", linewidth=0.7, alpha=0.7, zorder=1)
    handles = axes.plot(epochs, [s["mean_iou"] for s in scores], label="mean", color="black", linewidth=2.5, **style)
    handles[0].set_zorder(4)
    for index, colour in zip(named, _DISTINCT, strict=False):
        label = f"{last[index]:.2f} {shown_name(labels.names[index])}"
        dashes = "-" if index in best else "--"
        values = floats([s["iou"][index] for s in scores])
        handles += axes.plot(epochs, values, label=label, color=colour, linestyle=dashes, zorder=3, **style)
    rest = len(labels) - len(named)
    handles += axes.plot([], [], color="#b9c0c6", linewidth=0.7, label=f"the other {rest} classes")
    axes.legend(handles=handles, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
