"""The gallery: rows of image, truth, prediction, and one grey map of the probability of each class."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from petseg.inference.class_colours import COLOURS, Pixels, colour_map
from petseg.inference.metrics import confusion, score
from petseg.inference.stored_samples import read_image, read_mask
from petseg.inference.trained_network import Prediction, Predictor
from shards import SplitReader
from shards.format.layout import CLASSES

_TITLES = ("image", "truth", "prediction", *(f"probability: {name}" for name in CLASSES))


@dataclass(frozen=True)
class PredictedSample:
    """A sample and its prediction."""

    key: str
    image: Pixels  # uint8 (H, W, 3)
    truth: Pixels  # class indices 0..2, uint8 (H, W)
    prediction: Prediction  # at the same size
    mean_iou: float  # of this image alone, at its original resolution

    @property
    def predicted(self) -> Pixels:
        """The predicted class indices 0..2, uint8 (H, W)."""
        return self.prediction.mask - np.uint8(1)


def predict_sample(predictor: Predictor, split: SplitReader, index: int) -> PredictedSample:
    """Read a sample and predict it."""
    image, truth = read_image(split, index), read_mask(split, index)
    prediction = predictor.predict(image)
    counts = confusion(torch.from_numpy(truth[None]), torch.from_numpy(prediction.mask[None] - 1))
    mean_iou = score(counts[0].numpy()).mean_iou
    return PredictedSample(key=split.key(index), image=image, truth=truth, prediction=prediction, mean_iou=mean_iou)


def spread_indices(count: int, samples: int) -> list[int]:
    """Return ``count`` indices (or all, if there are fewer) evenly spread over a split."""
    return sorted({int(i) for i in np.linspace(0, samples - 1, min(count, samples)).round()})


def draw_gallery(samples: Sequence[PredictedSample], *, title: str) -> bytes:
    """Return a PNG with one row per sample; at least one."""
    rows = len(samples)
    figure = Figure(figsize=(13.5, 2.35 * rows + 1.0), layout="constrained", dpi=100)
    figure.suptitle(title, fontsize=13)
    grid = figure.subplots(rows, len(_TITLES), squeeze=False)
    for row, sample in zip(grid, samples, strict=True):
        maps = sample.prediction.probabilities
        panels = [sample.image, colour_map(sample.truth), colour_map(sample.predicted), *maps]
        for axes, panel in zip(row, panels, strict=True):
            axes.imshow(panel, cmap="gray", vmin=0, vmax=1 if panel.ndim == 2 else None, aspect="equal")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_color("#bbbbbb")
        row[0].set_ylabel(sample.key[:24], fontsize=9)
        row[2].set_xlabel(f"mean IoU {sample.mean_iou:.2f}", fontsize=9)
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
