"""Samples with their predictions, for the gallery and the report, and which samples of a split to show."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from petseg.inference.evaluation import Evaluation
from petseg.inference.metrics import confusion, score
from petseg.inference.probabilities import Prediction
from petseg.inference.stored_samples import read_image, read_mask
from petseg.inference.trained_network import Predictor
from petseg.report.figures import MANY, Rgb, map_colour
from shards import SplitReader
from shards.format.labels import IGNORE, Labels
from shards.format.overlays import IGNORED_COLOUR, Pixels

_LEGEND = 60  # no more classes than this are named on a page, those with the most pixels


@dataclass(frozen=True)
class PredictedSample:
    """A sample and its prediction."""

    key: str
    image: Pixels  # uint8 (H, W, 3)
    truth: Pixels  # class indices 0..N-1 and 255, ignored: uint8 (H, W)
    prediction: Prediction  # at the same size
    mean_iou: float  # of this image alone, at its stored size

    @property
    def pixels(self) -> npt.NDArray[np.int64]:
        """How many pixels of truth and prediction have each class index, or 255, ignored: int64 (256,)."""
        found = (np.bincount(mask.reshape(-1), minlength=256) for mask in (self.truth, self.prediction.index))
        return np.asarray(sum(found), dtype=np.int64)


def shown_classes(samples: Sequence[PredictedSample], *, classes: int, most: int) -> tuple[list[int], int, bool]:
    """Return the classes to name beside samples, in their order, how many more occur, and whether pixels are ignored.

    All of few ``classes``; of many those that occur, and of these at most ``most``, those with the most pixels.
    """
    pixels = np.sum([sample.pixels for sample in samples], axis=0)
    occurring = [i for i in np.argsort(-pixels[:classes], kind="stable").tolist() if pixels[i] or classes <= MANY]
    return sorted(occurring[:most]), max(0, len(occurring) - most), bool(pixels[IGNORE])


def class_legend(samples: Sequence[PredictedSample], labels: Labels) -> tuple[list[tuple[str, Rgb]], int]:
    """Return names and colours of :func:`shown_classes`, and of ignored pixels; and how many more classes occur."""
    shown, more, ignored = shown_classes(samples, classes=len(labels), most=_LEGEND)
    legend = [(labels.names[i], map_colour(labels, i)) for i in shown]
    return [*legend, ("ignored", IGNORED_COLOUR)] if ignored else legend, more


def predict_sample(predictor: Predictor, split: SplitReader, index: int) -> PredictedSample:
    """Read a sample and predict it."""
    image, truth = read_image(split, index), read_mask(split, index)
    prediction = predictor.predict(image)
    masks = (torch.from_numpy(np.array(mask)[None]) for mask in (truth, prediction.index))
    counts = confusion(*masks, classes=len(predictor.labels))
    mean_iou = score(counts[0].numpy()).mean_iou
    return PredictedSample(key=split.key(index), image=image, truth=truth, prediction=prediction, mean_iou=mean_iou)


def spread_indices(count: int, samples: int) -> list[int]:
    """Return ``count`` indices (or all, if there are fewer) evenly spread over a split."""
    return sorted({int(i) for i in np.linspace(0, samples - 1, min(count, samples)).round()})


def choose_images(evaluation: Evaluation, *, each: int = 2) -> list[tuple[str, int, float]]:
    """Return (rank, index, mean IoU) of the best, the median and the worst images, without repeats.

    An image whose pixels are all ignored has no score and is not chosen.
    """
    values = image_scores(evaluation)
    order = [index for index in np.argsort(-values, kind="stable").tolist() if not np.isnan(values[index])]
    middle = max(0, len(order) // 2 - each // 2)
    groups = {"best": order[:each], "median": order[middle : middle + each], "worst": order[-each:]}
    ranks: dict[int, str] = {}
    for rank, indices in groups.items():
        for index in indices:
            ranks.setdefault(index, rank)
    return [(rank, index, float(values[index])) for index, rank in ranks.items()]


def image_scores(evaluation: Evaluation) -> npt.NDArray[np.float64]:
    """Return the mean IoU of each image alone, NaN where it has no labelled pixel: float64 (samples,)."""
    hits, true, predicted = evaluation.counts.transpose(1, 0, 2)
    union = true + predicted - hits
    classes = (union > 0).sum(axis=1)
    total = np.divide(hits, union, out=np.zeros(union.shape), where=union > 0).sum(axis=1)
    return np.asarray(np.divide(total, classes, out=np.full(len(total), np.nan), where=classes > 0))
