"""The gallery: rows of image, truth, prediction, and grey maps of probabilities."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Patch
from matplotlib.textpath import TextPath

from petseg.inference.probabilities import Prediction, resized_strips
from petseg.report.figures import MANY, map_colour, picture_bytes, plain_text, shown_name, unit
from petseg.report.sample_predictions import PredictedSample, shown_classes
from petseg.report.thumbnails import difference_legend, differences, shrunk
from shards.format.labels import Labels
from shards.format.overlays import IGNORED_COLOUR, Pixels, colour_map

_PANEL = 360  # longest side of a panel, pixels
_PANEL_INCHES = 2.2
_LEGEND = 24  # no more classes than this are named, those with the most pixels


def draw_gallery(samples: Sequence[PredictedSample], *, labels: Labels, title: str) -> bytes:
    """Return a PNG with one row per sample; at least one."""
    with plain_text():
        return picture_bytes(_figure(samples, labels, title), "png")


def _figure(samples: Sequence[PredictedSample], labels: Labels, title: str) -> Figure:
    columns = ["image", "truth", "prediction", *_map_titles(labels)]
    heights = [_PANEL_INCHES * min(max(s.truth.shape[0] / s.truth.shape[1], 0.4), 1.5) + 0.15 for s in samples]
    patches = _legend(samples, labels)
    width = _PANEL_INCHES * len(columns) + 0.3
    legend_columns = _legend_columns(patches, width=width)
    size = (width, sum(heights) + 1.0 + 0.22 * -(-len(patches) // legend_columns))
    figure = Figure(figsize=size, layout="constrained", dpi=100)
    figure.suptitle(title, fontsize=13)
    grid = figure.subplots(len(samples), len(columns), squeeze=False, height_ratios=heights)
    for row, sample in zip(grid, samples, strict=True):
        truth, predicted = sample.truth, sample.prediction.index
        panels = [shrunk(sample.image, _PANEL, smooth=True)]
        panels += [shrunk(colour_map(mask, labels), _PANEL) for mask in (truth, predicted)]
        panels += _maps(sample, labels)
        for axes, panel in zip(row, panels, strict=True):
            axes.imshow(panel, cmap="gray", vmin=0, vmax=255 if panel.ndim == 2 else None, aspect="equal")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_color("#bbbbbb")
        row[0].set_xlabel(shown_name(sample.key, 24), fontsize=8)  # below: beside a flat panel it would not fit
        row[2].set_xlabel(f"mean IoU {sample.mean_iou:.2f}", fontsize=9)
    for axes, text in zip(grid[0], columns, strict=True):
        axes.set_title(text, fontsize=10)
    figure.legend(handles=patches, loc="outside lower center", ncols=legend_columns, frameon=False)
    return figure


def _map_titles(labels: Labels) -> list[str]:
    if len(labels) > MANY:
        return ["differences", "probability of the\npredicted class"]
    return [f"probability:\n{shown_name(name)}" for name in labels.names]


def _maps(sample: PredictedSample, labels: Labels) -> list[Pixels]:
    """Return the panels behind the prediction: of few classes each one's probability, of many the highest."""
    if len(labels) > MANY:
        wrong = differences(sample.truth, sample.prediction.index, labels)
        return [shrunk(wrong, _PANEL), shrunk(_grey(_highest(sample.prediction)), _PANEL, smooth=True)]
    return [shrunk(_grey(plane), _PANEL, smooth=True) for plane in sample.prediction.probabilities]


def _highest(prediction: Prediction) -> npt.NDArray[np.float32]:
    """Return the probability of the predicted class, float32 (H, W); all classes' would take 4 N bytes per pixel."""
    strips = resized_strips(prediction.coarse[None], *prediction.index.shape)
    return np.concatenate([strip[0].amax(dim=0).cpu().numpy() for strip in strips])


def _grey(probabilities: npt.NDArray[np.float32]) -> Pixels:
    return (probabilities * 255).round().astype(np.uint8)


def _legend(samples: Sequence[PredictedSample], labels: Labels) -> list[Patch]:
    """Return the entries of the legend: the classes (of many, those that occur), ignored pixels, the grey maps."""
    chosen, more, ignored = shown_classes(samples, classes=len(labels), most=_LEGEND)
    patches = [_patch(unit(map_colour(labels, i)), shown_name(labels.names[i])) for i in chosen]
    if more:
        patches.append(_patch("none", f"and {more} more classes"))
    if ignored:
        patches.append(_patch(unit(IGNORED_COLOUR), "ignored"))
    if len(labels) > MANY:
        patches += [_patch(unit(colour), text) for text, colour in difference_legend(labels)]
    return [*patches, Patch(facecolor="none", label="grey maps: black 0, white 1")]


def _legend_columns(patches: Sequence[Patch], *, width: float) -> int:
    """Return how many columns a legend has so that its longest names fit into a width, inches; at most 6."""
    size = FontProperties().get_size_in_points()
    longest = max(TextPath((0, 0), str(patch.get_label()), size=size).get_extents().width for patch in patches)
    column = (longest + 4.8 * size) / 72  # the patch is 2 wide, the space after it 0.8, that between columns 2
    return max(1, min(len(patches), 6, int(width / column)))


def _patch(colour: tuple[float, float, float] | str, label: str) -> Patch:
    return Patch(facecolor=colour, edgecolor="none" if colour == "none" else "#888888", label=label)
