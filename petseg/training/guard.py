"""Ends a run that has diverged: a loss or gradient that is non-finite or far too large, and in which step."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from petseg.host.distributed import World
from petseg.host.stop_signals import DivergedError
from petseg.training.step import StepResult, TrainStep
from pipeline import Batch

# Cross-entropy starts near log(N), at most 5.5, and Dice is at most 1: training does not recover from more.
MAX_LOSS = 100.0


@dataclass(frozen=True)
class LaunchedStep:
    """A step that was launched and whose result may not have been read yet."""

    result: StepResult
    batch: Batch  # this rank's slice
    valid: int  # valid images in the global batch
    step: int  # number in the run, from 1
    epoch: int  # from 0


class DivergenceGuard:
    """Checks losses, gradients and weights; raises :class:`DivergedError` with the step, its images and what to do.

    Every rank must call each method. ``checkpoint`` is the run's last.pt and ``saved_step`` the step after which it was
    written, 0 if there is none; ``key`` returns the key of a training sample by its index.
    """

    def __init__(self, train_step: TrainStep, *, world: World, checkpoint: Path, key: Callable[[int], str]) -> None:
        self._train_step, self._world, self._checkpoint, self._key = train_step, world, checkpoint, key
        self.saved_step = 0

    def check_step(self, launched: LaunchedStep, *, loss: float, norm: float) -> None:
        """Check the global batch's loss and gradient norm."""
        scaled = self._train_step.scaler.is_enabled()  # fp16 overflows now and then; its scaler skips those steps
        if not abs(loss) <= MAX_LOSS:
            raise self._step_error(f"the loss became {loss:g}", launched)
        if not (scaled or norm < float("inf")):
            raise self._step_error(f"the gradient became {norm:g}", launched)

    def check_weights(self, newest: LaunchedStep) -> None:
        """Check the weights after the newest step, so that a diverged checkpoint is never written.

        That step's own loss is the one before its update; so this computes the loss of its batch once more.
        """
        loss = float(self._world.sum(self._train_step.loss_without_update(newest.batch, global_valid=newest.valid)))
        if not abs(loss) <= MAX_LOSS:
            raise self._step_error(f"the loss became {loss:g} right after the update", newest)

    def check_validation(self, loss: float, *, epoch: int) -> None:
        """Check the validation loss of an epoch (from 0)."""
        if not math.isfinite(loss):
            raise self._error(f"the validation loss became {loss:g} in epoch {epoch + 1}")

    def _step_error(self, what: str, step: LaunchedStep) -> DivergedError:
        indices = [index for part in self._world.gather(step.batch.index.tolist()) for index in part]
        keys = ", ".join(self._key(index) for index in dict.fromkeys(indices))
        where = f"at step {step.step} (epoch {step.epoch + 1}, batch {step.batch.number + 1})"
        return self._error(f"{what} {where}, images {keys}")

    def _error(self, what: str) -> DivergedError:
        saved = f"the last good checkpoint is {self._checkpoint} (step {self.saved_step})"
        return DivergedError(
            f"{what}; {saved if self.saved_step else 'no checkpoint was written before it'}; "
            "start again with a smaller --lr, with --clip-norm 1, or with --precision fp32"
        )
