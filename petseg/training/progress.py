"""How far a run is: steps and epochs done, the best epoch, and the running totals of the current epoch."""

from typing import Literal

import msgspec


class Progress(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The numeric state of a run; stored in every checkpoint as JSON, under ``position``."""

    epoch: int = 0  # the current epoch, from 0
    phase: Literal["train", "validate"] = "train"  # what comes next: more batches, or the end of the epoch
    step: int = 0  # optimisation steps done in the whole run
    finished: bool = False
    best_score: float | None = None  # mean IoU of the best epoch, None before the first
    best_epoch: int = 0  # from 1
    stale_epochs: int = 0  # epochs between the best one and the last one scored
    seconds: float = 0.0  # wall time of the run, over all resumptions
    # Totals of the current epoch:
    loss_sum: float = 0.0  # batch losses times their valid images
    images: int = msgspec.field(default=0, name="pictures")  # valid images; the name in version 1's files
    confusion: list[list[int]] = msgspec.field(default_factory=list)  # while training; empty before the first step
    train_seconds: float = 0.0  # including ...
    wait_seconds: float = 0.0  # ... the time spent waiting for the loader

    def start_epoch(self, epoch: int) -> None:
        """Start an epoch with all totals zero."""
        self.epoch, self.phase = epoch, "train"
        self.loss_sum, self.images, self.train_seconds, self.wait_seconds = 0.0, 0, 0.0, 0.0
        self.confusion = []

    def update_best(self, score: float) -> bool:
        """Record the current epoch's score; return whether it is the best so far."""
        if self.best_score is None or score > self.best_score:
            self.best_score, self.best_epoch, self.stale_epochs = score, self.epoch + 1, 0
            return True
        self.stale_epochs = self.epoch + 1 - self.best_epoch
        return False
