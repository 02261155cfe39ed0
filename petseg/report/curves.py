"""The curves of a run: loss, IoU per class and learning rate over the epochs."""

import io
from typing import Literal

from matplotlib.figure import Figure

from petseg.runs.history import History, judged_part
from shards.format.layout import CLASSES

# On white paper: the colours of petseg.inference.class_colours, with a visible grey for the border.
_LINES = {"animal": "#e69f00", "background": "#004678", "border": "#7f7f7f"}
Kind = Literal["png", "svg"]


def draw_curves(history: History, *, kind: Kind = "png") -> bytes:
    """Return a PNG or an SVG of a run's curves; ``history`` is metrics.jsonl, at least one epoch."""
    figure = Figure(figsize=(13, 4), layout="constrained", dpi=110)
    loss, iou, rate = figure.subplots(1, 3)
    epochs = [entry["epoch"] for entry in history]
    style = {"marker": "o", "markersize": 3} if len(history) < 40 else {}
    part, judged = judged_part(history)
    judged_epochs = [entry["epoch"] for entry in judged]

    loss.plot(epochs, [entry["train"]["loss"] for entry in history], label="training", color="#7f7f7f", **style)
    if part == "val":
        values = [entry["val"]["loss"] for entry in judged]
        loss.plot(judged_epochs, values, label="validation", color="#d55e00", **style)
    loss.set(title="Loss", xlabel="epoch", ylim=(0, None))
    loss.legend(frameon=False)

    for number, name in enumerate(CLASSES):
        values = [float("nan") if e[part]["iou"][number] is None else e[part]["iou"][number] for e in judged]
        iou.plot(judged_epochs, values, label=name, color=_LINES[name], **style)
    iou.plot(judged_epochs, [e[part]["mean_iou"] for e in judged], label="mean", color="black", linewidth=2, **style)
    best = max(judged, key=lambda entry: entry[part]["mean_iou"])
    name = "validation" if part == "val" else "training"
    iou.set(title=f"IoU, {name}: best mean {best[part]['mean_iou']:.3f} in epoch {best['epoch']}", ylim=(0, 1))
    iou.set_xlabel("epoch")
    iou.legend(frameon=True, framealpha=0.7, edgecolor="none", loc="best", ncols=2)

    rate.plot(epochs, [entry["learning_rate"] for entry in history], color="black", **style)
    rate.set(title="Learning rate at the end of the epoch", xlabel="epoch", ylim=(0, None))
    for axes in (loss, iou, rate):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.set_xlim(0.5, max(epochs[-1], 2) + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
    data = buffer.getvalue()
    return data[data.index(b"<svg") :] if kind == "svg" else data  # without the XML prologue, to be embedded in HTML
