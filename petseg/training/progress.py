"""How far a run is: steps and epochs done, the best epoch, and the running totals of the current epoch."""

import math
from typing import Annotated, Literal, TypeAlias

import msgspec

from petseg.runs.checkpoint import Checkpoint, damage_of
from petseg.training.run_data import size_of_epoch

_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=10**15)]
_Number: TypeAlias = Annotated[float, msgspec.Meta(ge=-1e30, le=1e30)]
_Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1e12)]


class Progress(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The numeric state of a run; stored in every checkpoint as JSON, under ``position``."""

    epoch: _Count = 0  # the current epoch, from 0
    phase: Literal["train", "validate"] = "train"  # what comes next: more batches, or the end of the epoch
    step: _Count = 0  # optimisation steps done in the whole run
    finished: bool = False
    best_score: _Number | None = None  # mean IoU of the best epoch, None before the first
    best_epoch: _Count = 0  # from 1
    stale_epochs: _Count = 0  # epochs between the best one and the last one scored
    skipped: _Count = 0  # updates in the whole run, because a gradient overflowed in fp16
    seconds: _Seconds = 0.0  # wall time of the run, over all resumptions
    # Totals of the current epoch:
    loss_sum: _Number = 0.0  # batch losses times their valid images
    images: _Count = msgspec.field(default=0, name="pictures")  # valid images; the name in version 1's files
    confusion: list[list[_Count]] = msgspec.field(default_factory=list)  # while training; empty before the first step
    train_seconds: _Seconds = 0.0  # including ...
    wait_seconds: _Seconds = 0.0  # ... the time spent waiting for the loader

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


def read_progress(checkpoint: Checkpoint) -> Progress:
    """Return how far a checkpoint's run is; ``CheckpointError`` if that is damaged, or is not what the rest of it says.

    What a whole checkpoint says of itself, a later one would repeat, and metrics.jsonl with it.
    """
    classes, state = len(checkpoint.labels), checkpoint.loader
    with damage_of(checkpoint):
        progress = msgspec.convert(checkpoint.position, Progress)
        if progress.epoch != len(checkpoint.history) or (state is not None and state["epoch"] != progress.epoch):
            raise ValueError(f"it is in epoch {progress.epoch + 1}, its metrics or its loader are not")
        if progress.phase == "validate" and not progress.images:
            raise ValueError("it has an epoch without images")
        if [len(row) for row in progress.confusion] not in ([], [classes] * classes):
            raise ValueError(f"its counts of pixels are not those of {classes} classes")
        if progress.best_epoch or progress.best_score is not None:
            best = checkpoint.history[progress.best_epoch - 1] if progress.best_epoch else {}
            score = (best.get("val") or best.get("train") or {}).get("mean_iou", math.nan)
            if not abs((progress.best_score or 0.0) - score) < 1e-6:
                raise ValueError("its best score is not the one of that epoch in its metrics")
    return progress


def expect_possible(progress: Progress, checkpoint: Checkpoint, *, batches: int) -> None:
    """Raise ``CheckpointError`` unless a run of so many batches in an epoch can have these counts."""
    recipe, state = checkpoint.recipe, checkpoint.loader
    height, width = size_of_epoch(recipe, progress.epoch)
    done = batches if progress.phase == "validate" else 0 if state is None else state["batch"]
    with damage_of(checkpoint):
        if progress.epoch >= recipe.epochs and not progress.finished:
            raise ValueError(f"it is in epoch {progress.epoch + 1} of {recipe.epochs}")
        if progress.step != progress.epoch * batches + done:
            raise ValueError(f"it is after step {progress.step}, its epochs and its loader are not")
        if progress.images > done * recipe.batch_size:
            raise ValueError(f"it counts {progress.images} images of an epoch after {done} batches")
        if sum(map(sum, progress.confusion)) > progress.images * height * width:
            raise ValueError("it counts more pixels than its images have")
