"""A run's metrics by epoch, as in metrics.jsonl, and whether its validation or its training scores count."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

History: TypeAlias = Sequence[Mapping[str, Any]]


def judged_part(history: History) -> tuple[Literal["val", "train"], History]:
    """Return the part whose scores count, and the epochs that have it: ``val`` if any epoch was validated."""
    validated = [entry for entry in history if entry["val"]]
    return ("val", validated) if validated else ("train", history)


class _EpochScores(msgspec.Struct):
    """What is read of one part's scores; version 1 has fewer, later versions may have more."""

    loss: float | None
    pixel_accuracy: float
    iou: tuple[float | None, ...]
    mean_iou: float
    mean_dice: float


class _EpochEntry(msgspec.Struct):
    """What is read of one line of metrics.jsonl."""

    epoch: int
    train: _EpochScores
    val: _EpochScores | None
    learning_rate: float
    pictures_per_second: float
    wait_share: float
    best: bool


def check_history(history: Any) -> None:
    """Raise ``msgspec.ValidationError`` unless a history has what curves, reports and messages read of it."""
    msgspec.convert(history, list[_EpochEntry])


def occurring(scores: Mapping[str, Any]) -> list[float | None]:
    """Return the IoU of each class that occurs in the masks, else None; of an entry's ``val`` or ``train`` scores.

    A class that does not occur has no recall, and an IoU of 0 if it is predicted somewhere: always the worst.
    """
    iou = scores["iou"]
    recall = scores.get("recall") or iou  # version 1 logged none
    return [value if known is not None else None for value, known in zip(iou, recall, strict=True)]
