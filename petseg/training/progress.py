"""How far a run is: steps and epochs done, the best epoch, and the running totals of the current epoch."""

from __future__ import annotations

from typing import Literal

import msgspec


class Progress(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The numeric state of a run; stored in every checkpoint as JSON, under ``position``.

    Attributes:
        epoch: the current epoch, from 0.
        phase: what comes next: ``train`` (more batches) or ``validate`` (the epoch's batches are done).
        step: optimisation steps done in the whole run.
        finished: whether the run is complete.
        best_score: the best epoch's mean IoU, or None before the first.
        best_epoch: that epoch, from 1.
        stale_epochs: epochs between it and the last one scored.
        seconds: wall time of the run, over all resumptions.
        loss_sum: sum of the epoch's batch losses times their valid images.
        images: valid images of the epoch so far.
        confusion: the epoch's confusion matrix of the training images, predicted while training on them.
        train_seconds: the epoch's training time, including ``wait_seconds``, the time spent waiting for the loader.
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
    images: int = msgspec.field(default=0, name="pictures")  # the name in version 1's files
    confusion: list[list[int]] = msgspec.field(default_factory=lambda: [[0, 0, 0] for _ in range(3)])
    train_seconds: float = 0.0
    wait_seconds: float = 0.0

    def start_epoch(self, epoch: int) -> None:
        """Start an epoch with all totals zero."""
        self.epoch, self.phase = epoch, "train"
        self.loss_sum, self.images, self.train_seconds, self.wait_seconds = 0.0, 0, 0.0, 0.0
        self.confusion = [[0, 0, 0] for _ in range(3)]

    def update_best(self, score: float) -> bool:
        """Record the current epoch's score; return whether it is the best so far."""
        if self.best_score is None or score > self.best_score:
            self.best_score, self.best_epoch, self.stale_epochs = score, self.epoch + 1, 0
            return True
        self.stale_epochs = self.epoch + 1 - self.best_epoch
        return False
