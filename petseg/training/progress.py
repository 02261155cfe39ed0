"""Where a run stands: how far it is, what was best, and what the present epoch has counted so far."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class Position(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The part of a run's state that is numbers; travels in every checkpoint as JSON.

    Attributes:
        epoch: the present epoch, from 0.
        phase: what comes next in it: ``train`` (further batches), or ``validate`` (all batches are done).
        step: optimisation steps done in the whole run.
        finished: nothing is left to do.
        best_score: the best epoch's validation mean IoU, or None before the first.
        best_epoch: that epoch, from 1 as people count.
        stale_epochs: epochs since then, when an epoch was last judged.
        seconds: wall time spent on the run, all its parts together.
        loss_sum: the present epoch's sum of batch losses times their valid pictures.
        pictures: the present epoch's valid pictures so far.
        confusion: the present epoch's confusion matrix of the training pictures, as they were when trained on.
        train_seconds: the present epoch's time in training, of which ...
        wait_seconds: ... so much was spent waiting for the loader.
    """

    epoch: int = 0
    phase: Literal["train", "validate"] = "train"
    step: int = 0
    finished: bool = False
    best_score: float | None = None
    best_epoch: int = 0
    stale_epochs: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    pictures: int = 0
    confusion: list[list[int]] = msgspec.field(default_factory=lambda: [[0, 0, 0] for _ in range(3)])
    train_seconds: float = 0.0
    wait_seconds: float = 0.0

    def start_epoch(self, epoch: int) -> None:
        """Begin an epoch with nothing counted."""
        self.epoch, self.phase = epoch, "train"
        self.loss_sum, self.pictures, self.train_seconds, self.wait_seconds = 0.0, 0, 0.0, 0.0
        self.confusion = [[0, 0, 0] for _ in range(3)]

    def judge(self, value: float) -> bool:
        """Take in an epoch's score; return whether it is the best so far."""
        if self.best_score is None or value > self.best_score:
            self.best_score, self.best_epoch, self.stale_epochs = value, self.epoch + 1, 0
            return True
        self.stale_epochs = self.epoch + 1 - self.best_epoch
        return False


def position_from(document: dict[str, Any]) -> Position:
    """Read a position from a checkpoint's JSON."""
    return msgspec.convert(document, Position)
