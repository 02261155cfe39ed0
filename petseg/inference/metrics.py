"""Scores of a segmentation, all from one confusion matrix over the whole set.

The mean of the batches' IoU is not the IoU of the set. So pixels are counted, and the counts are divided once, at the
end.

Conventions: a class that occurs neither in the truth nor in the prediction has no IoU and no Dice: its score is None
and the means omit it. A class that is predicted but never true has IoU 0 and no recall. Without any pixel the means and
the pixel accuracy are 0.
"""

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from petseg.nets.model_config import CLASS_COUNT

ANIMAL, BACKGROUND, BORDER = range(CLASS_COUNT)
Matrix = npt.NDArray[np.int64]


class BinaryScores(msgspec.Struct, frozen=True, kw_only=True):
    """IoU of animal against background, with the border treated in two ways.

    Attributes:
        border_as_animal: the border counts as animal, in truth and prediction.
        border_ignored: pixels whose truth is border are ignored; border predicted elsewhere counts as animal.
    """

    border_as_animal: float | None
    border_ignored: float | None


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """The scores of a confusion matrix; tuples are in class order: animal, background, border. See the module.

    Attributes:
        pixel_accuracy: share of all pixels that were predicted correctly.
        iou: of each class.
        dice: of each class.
        accuracy: recall of each class: the share of its true pixels that were predicted as it.
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


def predicted_class(scores: torch.Tensor) -> torch.Tensor:
    """Return the argmax of logits or probabilities (B, C, H, W), the first of equals: int64 (B, H, W).

    The same as ``scores.argmax(dim=1)`` if no score is NaN. On a CPU torch's argmax takes ten times as long as the
    comparisons here, unless the classes are the fastest axis in memory: a tenth of a training step.
    """
    if scores.device.type != "cpu":
        return scores.argmax(dim=1)
    best = scores[:, 0]
    prediction = torch.zeros(best.shape, dtype=torch.int64)
    for number in range(1, scores.shape[1]):
        prediction.masked_fill_(scores[:, number] > best, number)
        best = torch.maximum(best, scores[:, number])
    return prediction


def confusion(truth: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
    """Count pixels by image, true class and predicted class: int64 (B, 3, 3), on the device of the input.

    ``truth`` and ``prediction`` are class indices 0..2, integers, (B, H, W). Compares and sums class by class, without
    waiting for the device: ``bincount`` would synchronise a GPU.
    """
    pair = truth.to(torch.uint8) * CLASS_COUNT + prediction.to(torch.uint8)
    counts = [(pair == number).sum(dim=(1, 2)) for number in range(CLASS_COUNT * CLASS_COUNT)]
    return torch.stack(counts, dim=1).view(-1, CLASS_COUNT, CLASS_COUNT)


def score(matrix: npt.ArrayLike) -> Scores:
    """Turn a confusion matrix (3, 3) of counts, [true, predicted], into scores.

    IoU = TP / (TP + FP + FN) (Jaccard), Dice = 2 TP / (2 TP + FP + FN), recall = TP / (TP + FN), pixel accuracy =
    diagonal / all.
    """
    counts: Matrix = np.asarray(matrix, dtype=np.int64)
    hits = np.diag(counts)
    true, predicted = counts.sum(axis=1), counts.sum(axis=0)
    iou = _ratios(hits, true + predicted - hits)
    dice = _ratios(2 * hits, true + predicted)
    return Scores(
        pixel_accuracy=_ratio(hits.sum(), counts.sum()) or 0.0,
        iou=iou,
        dice=dice,
        accuracy=_ratios(hits, true),
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


def _ratios(parts: Matrix, wholes: Matrix) -> tuple[float | None, ...]:
    return tuple(_ratio(part, whole) for part, whole in zip(parts, wholes, strict=True))


def _ratio(part: np.int64, whole: np.int64) -> float | None:
    return float(part) / float(whole) if whole else None


def _mean(values: tuple[float | None, ...]) -> float:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else 0.0
