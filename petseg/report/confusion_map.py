"""A confusion matrix of any number of classes: as a table, as a picture, and its most frequent mistakes."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from petseg.inference.metrics import Matrix
from petseg.report.figures import Rgb, picture_bytes, plain_text, shown_name
from shards.format.labels import Labels

_TICKS = 40  # with more classes than this, the names of all would overlap


class ConfusionCell(NamedTuple):
    """A cell of the table: the share of its row's pixels, the pixels, and its colour."""

    share: float
    pixels: int
    shade: Rgb


class FrequentMistake(NamedTuple):
    """Pixels of one class that were predicted as another: names, their number and share of the true class's pixels."""

    true: str
    predicted: str
    pixels: int
    share: float


def confusion_table(matrix: Matrix) -> list[list[ConfusionCell]]:
    """Return the cells of a table: rows are the truth, columns the prediction."""
    return [
        [
            ConfusionCell(float(share), int(pixels), _shade(float(share), correct=row == column))
            for column, (share, pixels) in enumerate(zip(shares, counts, strict=True))
        ]
        for row, (shares, counts) in enumerate(zip(_shares(matrix), matrix, strict=True))
    ]


def frequent_mistakes(matrix: Matrix, labels: Labels, *, count: int = 15) -> list[FrequentMistake]:
    """Return the pairs of classes with the most wrong pixels, the most frequent first."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    shares = _shares(matrix)
    found = []
    for position in np.argsort(-wrong.reshape(-1), kind="stable")[:count].tolist():
        true, predicted = divmod(position, len(labels))
        if pixels := int(wrong[true, predicted]):
            names = labels.names[true], labels.names[predicted]
            found.append(FrequentMistake(*names, pixels=pixels, share=float(shares[true, predicted])))
    return found


def draw_confusion(matrix: Matrix, labels: Labels) -> bytes:
    """Return an SVG of the matrix: the share of each true class's pixels, dark for many; rows are the truth."""
    step = -(-len(labels) // _TICKS)  # of many classes every STEPth is named, as on a ruler
    side = min(max(5.0, 0.24 * len(labels)), 9.0)
    with plain_text():
        figure = Figure(figsize=(side + 2.4, side + 1.4), layout="constrained")
        axes = figure.subplots()
        drawn = axes.imshow(_shares(matrix), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        every = "" if step == 1 else f" (1 of {step} classes is named)"
        axes.set(xlabel=f"prediction{every}", ylabel=f"truth{every}")
        names = [shown_name(name, 22) for name in labels.names[::step]]
        axes.set_xticks(range(0, len(labels), step), names, rotation=90, fontsize=8)
        axes.set_yticks(range(0, len(labels), step), names, fontsize=8)
        figure.colorbar(drawn, ax=axes, shrink=0.6, label="share of the true class's pixels")
        return picture_bytes(figure, "svg")


def _shares(matrix: Matrix) -> npt.NDArray[np.float64]:
    """Return each cell's share of its row, the pixels of a true class: float64 (N, N)."""
    return np.asarray(matrix / matrix.sum(axis=1, keepdims=True).clip(min=1), dtype=np.float64)


def _shade(share: float, *, correct: bool) -> Rgb:
    """Return the colour of a cell: towards blue if correct, towards orange if not."""
    full = (120, 180, 230) if correct else (240, 160, 110)
    red, green, blue = (round(255 + share * (value - 255)) for value in full)
    return red, green, blue
