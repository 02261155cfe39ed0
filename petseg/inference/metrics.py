"""Scores of a segmentation, all from pixel counts over the whole set.

The mean of the batches' IoU is not the IoU of the set. So pixels are counted, and the counts are divided once, at the
end. Ignored pixels are counted nowhere.

Conventions: a class that occurs neither in the truth nor in the prediction has no IoU and no Dice: its score is None
and the means omit it. A class that is predicted but never true has IoU 0 and no recall. Without any pixel the means and
the pixel accuracy are 0.
"""

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from shards.format.labels import Labels

Matrix = npt.NDArray[np.int64]


class BinaryScores(msgspec.Struct, frozen=True, kw_only=True):
    """IoU of the foreground against the rest, with boundary classes treated in two ways.

    Attributes:
        boundary_as_foreground: boundary classes count as foreground, in truth and prediction.
        boundary_ignored: pixels whose truth is a boundary class are ignored; a boundary predicted elsewhere counts as
            foreground. None where the labels have no boundary.
    """

    boundary_as_foreground: float | None
    boundary_ignored: float | None


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """The scores of a confusion matrix; tuples are in class order. See the module.

    Attributes:
        pixel_accuracy: share of the pixels that were predicted correctly.
        iou: of each class.
        dice: of each class.
        recall: of each class: the share of its true pixels that were predicted as it.
        mean_iou: over the classes that have one.
        mean_dice: over the classes that have one.
        binary: foreground against the rest; None where the labels name no foreground, or there are none.
    """

    pixel_accuracy: float
    iou: tuple[float | None, ...]
    dice: tuple[float | None, ...]
    recall: tuple[float | None, ...]
    mean_iou: float
    mean_dice: float
    binary: BinaryScores | None


def predicted_class(scores: torch.Tensor) -> torch.Tensor:
    """Return the argmax of logits or probabilities (B, N, H, W), the first of equals: int64 (B, H, W).

    ``max`` rather than ``argmax``: unless the classes are the fastest axis in memory, torch's argmax takes up to ten
    times as long on a CPU.
    """
    return scores.max(dim=1).indices


def confusion(truth: torch.Tensor, prediction: torch.Tensor, *, classes: int) -> torch.Tensor:
    """Count pixels by image, true class and predicted class: int64 (B, N, N), on the device of the input.

    ``truth`` and ``prediction`` are integers (B, H, W): class indices 0..N-1, in ``truth`` also 255, which is ignored.
    """
    # Each image has a row of N counts for each true class, and one more, dropped at the end, for ignored pixels.
    rows = classes + 1
    bins = truth.clamp(max=classes).long()
    bins += (torch.arange(len(truth), device=truth.device) * rows).view(-1, 1, 1)
    bins *= classes
    bins += prediction
    flat, size = bins.view(-1), len(truth) * rows * classes
    if truth.device.type == "cpu":
        counts = torch.bincount(flat, minlength=size)
    else:
        # Not bincount: it looks for the largest value first, and the host would wait for the device.
        counts = torch.zeros(size, dtype=torch.int64, device=flat.device)
        counts.scatter_add_(0, flat, torch.ones((), dtype=torch.int64, device=flat.device).expand_as(flat))
    return counts.view(-1, rows, classes)[:, :classes]


def class_counts(matrices: torch.Tensor) -> torch.Tensor:
    """Return what IoU, Dice and recall depend on, of confusion matrices (B, N, N): int64 (B, 3, N).

    The correct, the true and the predicted pixels of each class; see :func:`mean_iou_of`.
    """
    return torch.stack([matrices.diagonal(dim1=1, dim2=2), matrices.sum(dim=2), matrices.sum(dim=1)], dim=1)


def score(matrix: npt.ArrayLike, labels: Labels | None = None) -> Scores:
    """Turn a confusion matrix (N, N) of counts, [true, predicted], into scores.

    IoU = TP / (TP + FP + FN) (Jaccard), Dice = 2 TP / (2 TP + FP + FN), recall = TP / (TP + FN), pixel accuracy =
    diagonal / all. ``labels`` say which classes are foreground; without them there is no binary figure.
    """
    counts: Matrix = np.asarray(matrix, dtype=np.int64)
    scores = score_counts(np.stack([np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)]))
    if labels is None or not labels.foreground:
        return scores
    return msgspec.structs.replace(scores, binary=_binary(counts, labels))


def score_counts(counts: Matrix) -> Scores:
    """Turn the correct, the true and the predicted pixels of each class, (3, N), into scores, without binary ones."""
    hits, true, predicted = counts
    iou = _ratios(hits, true + predicted - hits)
    dice = _ratios(2 * hits, true + predicted)
    return Scores(
        pixel_accuracy=_ratio(hits.sum(), true.sum()) or 0.0,
        iou=iou,
        dice=dice,
        recall=_ratios(hits, true),
        mean_iou=_mean(iou),
        mean_dice=_mean(dice),
        binary=None,
    )


def _binary(counts: Matrix, labels: Labels) -> BinaryScores:
    boundary = list(labels.indices(labels.boundary))
    foreground = [*labels.indices(labels.foreground), *boundary]
    return BinaryScores(
        boundary_as_foreground=_foreground_iou(counts, foreground, counted=range(len(counts))),
        boundary_ignored=_foreground_iou(
            counts, foreground, counted=[c for c in range(len(counts)) if c not in boundary]
        )
        if boundary
        else None,
    )


def _foreground_iou(counts: Matrix, foreground: list[int], *, counted: "list[int] | range") -> float | None:
    """Return the IoU of the foreground classes together, over the pixels whose true class is ``counted``."""
    true = np.isin(counted, foreground)
    rows = counts[list(counted)]
    predicted = np.isin(np.arange(len(counts)), foreground)
    hits = rows[true][:, predicted].sum()
    return _ratio(hits, rows[true].sum() + rows[:, predicted].sum() - hits)


def _ratios(parts: Matrix, wholes: Matrix) -> tuple[float | None, ...]:
    return tuple(_ratio(part, whole) for part, whole in zip(parts, wholes, strict=True))


def _ratio(part: np.int64, whole: np.int64) -> float | None:
    return float(part) / float(whole) if whole else None


def _mean(values: tuple[float | None, ...]) -> float:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else 0.0
