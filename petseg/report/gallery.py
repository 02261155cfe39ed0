"""The gallery: picture, truth, prediction, and one grey map of probability per class, in rows."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from petseg.inference.image_files import COLOURS, Rgb
from petseg.inference.metrics import confusion, score
from petseg.inference.predictor import Prediction, Predictor
from petseg.inference.stored_samples import Pixels, read_picture, read_trimap
from shards import SplitReader
from shards.format.layout import CLASSES

_TITLES = ("picture", "truth", "prediction", *(f"how sure: {name}" for name in CLASSES))


@dataclass(frozen=True)
class Exhibit:
    """One sample of the gallery.

    Attributes:
        key: names it.
        picture: uint8 (H, W, 3).
        truth: class indices 0..2, uint8 (H, W).
        prediction: at the same size.
        mean_iou: of this picture alone, at its own size.
    """

    key: str
    picture: Pixels
    truth: Pixels
    prediction: Prediction
    mean_iou: float


def make_exhibit(predictor: Predictor, split: SplitReader, index: int) -> Exhibit:
    """Read a sample and predict it."""
    import torch

    picture, truth = read_picture(split, index), read_trimap(split, index)
    prediction = predictor.predict(picture)
    counts = confusion(torch.from_numpy(truth[None]), torch.from_numpy(prediction.mask[None] - 1))
    return Exhibit(
        key=split.key(index),
        picture=picture,
        truth=truth,
        prediction=prediction,
        mean_iou=score(counts[0].numpy()).mean_iou,
    )


def spread_indices(count: int, samples: int) -> list[int]:
    """Return ``count`` indices (or all, if there are fewer) evenly spread over a split."""
    return sorted({int(i) for i in np.linspace(0, samples - 1, min(count, samples)).round()})


def draw_gallery(exhibits: Sequence[Exhibit], *, title: str) -> bytes:
    """Return a PNG with one row an exhibit; at least one."""
    rows = len(exhibits)
    figure = Figure(figsize=(13.5, 2.35 * rows + 1.0), layout="constrained", dpi=100)
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=13)
    grid = figure.subplots(rows, len(_TITLES), squeeze=False)
    for row, exhibit in zip(grid, exhibits, strict=True):
        maps = exhibit.prediction.probabilities
        panels = [exhibit.picture, paint(exhibit.truth), paint(exhibit.prediction.mask - np.uint8(1)), *maps]
        for axes, panel in zip(row, panels, strict=True):
            axes.imshow(panel, cmap="gray", vmin=0, vmax=1 if panel.ndim == 2 else None, aspect="equal")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_color("#bbbbbb")
        row[0].set_ylabel(exhibit.key[:24], fontsize=9)
        row[2].set_xlabel(f"mean IoU {exhibit.mean_iou:.2f}", fontsize=9)
    for axes, text in zip(grid[0], _TITLES, strict=True):
        axes.set_title(text, fontsize=10)
    patches = [
        Patch(facecolor=[v / 255 for v in colour], edgecolor="#888888", label=name)
        for name, colour in zip(CLASSES, COLOURS, strict=True)
    ]
    maps_note = Patch(facecolor="none", label="grey maps: black 0, white 1")
    figure.legend(handles=[*patches, maps_note], loc="outside lower center", ncols=4, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def paint(classes: Pixels) -> Pixels:
    """Return class indices 0..2 (H, W) in the classes' colours: uint8 (H, W, 3)."""
    palette: tuple[Rgb, ...] = COLOURS
    return np.array(palette, np.uint8)[classes]
