"""Scores of a segmentation, all from one confusion matrix over the whole set.

Averaging the IoU of batches is not the IoU of the set, so nothing is averaged here: pixels are counted, and the
counts are divided once, at the end.

Conventions. A class that occurs neither in the truth nor in the prediction has no IoU and no Dice: its score is None
and it is left out of the means. A class that is predicted but never true has IoU 0, and no accuracy. Without any pixel
the means and the pixel accuracy are 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

from shards.format.layout import CLASSES

if TYPE_CHECKING:
    import torch

CLASS_NAMES = CLASSES
CLASS_COUNT = len(CLASSES)
ANIMAL, BACKGROUND, BORDER = range(CLASS_COUNT)
Matrix = npt.NDArray[np.int64]


class BinaryScores(msgspec.Struct, frozen=True, kw_only=True):
    """IoU of animal against background; the two ways differ in what becomes of the border.

    Attributes:
        border_as_animal: the border counts as animal, in truth and prediction.
        border_ignored: pixels whose truth is border are left out; where border is predicted elsewhere, it counts as
            animal.
    """

    border_as_animal: float | None
    border_ignored: float | None


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """What a confusion matrix says; tuples are in class order: animal, background, border. See the module.

    Attributes:
        pixel_accuracy: share of all pixels whose class was found.
        iou: of each class.
        dice: of each class.
        accuracy: of each class, the share of its true pixels that were found (its recall).
        mean_iou: over the classes that have one.
        mean_dice: over the classes that have one.
        binary: animal against background.
    """

    pixel_accuracy: float
    iou: tuple[float | None, ...]
    dice: tuple[float | None, ...]
    accuracy: tuple[float | None, ...]
    mean_iou: float
    mean_dice: float
    binary: BinaryScores


def likeliest_class(scores: torch.Tensor) -> torch.Tensor:
    """Return the class with the highest score of each pixel, the first of equals.

    The same as ``scores.argmax(dim=1)`` where no score is NaN. On a CPU that takes ten times as long as the comparisons
    here if the classes are not the fastest axis in memory: a tenth of a training step.

    Args:
        scores: logits or probabilities, floating, (B, C, H, W).

    Returns:
        int64 (B, H, W).
    """
    import torch

    if scores.device.type != "cpu":
        return scores.argmax(dim=1)
    best = scores[:, 0]
    prediction = torch.zeros(best.shape, dtype=torch.int64)
    for number in range(1, scores.shape[1]):
        prediction.masked_fill_(scores[:, number] > best, number)
        best = torch.maximum(best, scores[:, number])
    return prediction


def confusion(truth: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
    """Count, for each picture, how often each true class was taken for each class.

    Compares and sums, class by class, without waiting for the device: ``bincount`` would synchronise a GPU.

    Args:
        truth: class indices 0..2, integers, shape (B, H, W).
        prediction: the same.

    Returns:
        int64, shape (B, 3, 3): [b, true class, predicted class], in pixels, on the device of the input.
    """
    import torch

    pair = truth.to(torch.uint8) * CLASS_COUNT + prediction.to(torch.uint8)
    counts = [(pair == number).sum(dim=(1, 2)) for number in range(CLASS_COUNT * CLASS_COUNT)]
    return torch.stack(counts, dim=1).view(-1, CLASS_COUNT, CLASS_COUNT)


def score(matrix: npt.ArrayLike) -> Scores:
    """Turn a confusion matrix (3, 3) of counts, [true, predicted], into scores.

    IoU = TP / (TP + FP + FN) (Jaccard), Dice = 2 TP / (2 TP + FP + FN), a class's accuracy = TP / (TP + FN), pixel
    accuracy = diagonal / all.
    """
    counts: Matrix = np.asarray(matrix, dtype=np.int64)
    hits = np.diag(counts)
    true, predicted = counts.sum(axis=1), counts.sum(axis=0)
    iou = tuple(_ratio(h, t + p - h) for h, t, p in zip(hits, true, predicted, strict=True))
    dice = tuple(_ratio(2 * h, t + p) for h, t, p in zip(hits, true, predicted, strict=True))
    return Scores(
        pixel_accuracy=_ratio(hits.sum(), counts.sum()) or 0.0,
        iou=iou,
        dice=dice,
        accuracy=tuple(_ratio(h, t) for h, t in zip(hits, true, strict=True)),
        mean_iou=_mean(iou),
        mean_dice=_mean(dice),
        binary=_binary(counts),
    )


def _binary(counts: Matrix) -> BinaryScores:
    animal = [ANIMAL, BORDER]
    false_animal = counts[BACKGROUND, animal].sum()
    with_border = counts[np.ix_(animal, animal)].sum()
    without_border = counts[ANIMAL, animal].sum()
    return BinaryScores(
        border_as_animal=_ratio(with_border, with_border + false_animal + counts[animal, BACKGROUND].sum()),
        border_ignored=_ratio(without_border, without_border + false_animal + counts[ANIMAL, BACKGROUND]),
    )


def _ratio(part: np.int64, whole: np.int64) -> float | None:
    return float(part) / float(whole) if whole else None


def _mean(values: tuple[float | None, ...]) -> float:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else 0.0
