"""A run's metrics by epoch, as in metrics.jsonl, and whether its validation or its training scores count."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec

History: TypeAlias = Sequence[Mapping[str, Any]]
_LONGEST_SIDE: Final = 2**20  # pixels
LARGEST_LOSS: Final = 1e30  # that can be drawn, and that a checkpoint is read with


def judged_part(history: History) -> tuple[Literal["val", "train"], History]:
    """Return the part whose scores count, and the epochs that have it: ``val`` if any epoch was validated."""
    validated = [entry for entry in history if entry["val"]]
    return ("val", validated) if validated else ("train", history)


_Share: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Number: TypeAlias = Annotated[float, msgspec.Meta(ge=-LARGEST_LOSS, le=LARGEST_LOSS)]


class _EpochScores(msgspec.Struct):
    """What is read of one part's scores; version 1 has fewer, later versions may have more."""

    loss: _Number | None
    pixel_accuracy: _Share
    iou: tuple[_Share | None, ...]
    mean_iou: _Share
    mean_dice: _Share
    dice: tuple[_Share | None, ...] = ()
    recall: tuple[_Share | None, ...] = ()


class _EpochEntry(msgspec.Struct):
    """What is read of one line of metrics.jsonl."""

    epoch: Annotated[int, msgspec.Meta(ge=1, le=10**9)]
    size: int | list[int]  # version 1 has one number
    train: _EpochScores
    val: _EpochScores | None
    learning_rate: _Number
    pictures_per_second: _Number
    wait_share: _Number
    best: bool


def check_history(history: Any, *, classes: int | None = None) -> None:
    """Raise ``msgspec.ValidationError`` unless a history has what curves, reports and messages read of it.

    ``classes`` is how many scores by class each epoch must have; None: whatever the first one has.
    """
    for entry in msgspec.convert(history, list[_EpochEntry]):
        sides = [entry.size] * 2 if isinstance(entry.size, int) else entry.size
        if len(sides) != 2 or not all(1 <= side <= _LONGEST_SIDE for side in sides):
            raise msgspec.ValidationError(f"epoch {entry.epoch} has a size that no image has")
        for part in (entry.train, entry.val):
            if part is not None:
                classes = len(part.iou) if classes is None else classes
                if any(len(scores or part.iou) != classes for scores in (part.iou, part.dice, part.recall)):
                    raise msgspec.ValidationError(f"epoch {entry.epoch} has scores of other than {classes} classes")


def occurring(scores: Mapping[str, Any]) -> list[float | None]:
    """Return the IoU of each class that occurs in the masks, else None; of an entry's ``val`` or ``train`` scores.

    A class that does not occur has no recall, and an IoU of 0 if it is predicted somewhere: always the worst.
    """
    iou = scores["iou"]
    recall = scores.get("recall") or iou  # version 1 logged none
    return [value if known is not None else None for value, known in zip(iou, recall, strict=True)]
