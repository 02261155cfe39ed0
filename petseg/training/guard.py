"""Ending a run that learns no longer: a loss or a gradient that is NaN or enormous, and where it came from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from petseg.host.distributed import World
from petseg.host.stop_signals import DivergedError
from petseg.training.step import Learner, StepResult
from petseg.training.trial import trial_loss
from pipeline import Batch

# Cross-entropy starts near log(3) = 1.1 and Dice is at most 1: a loss beyond this is no longer learning.
EXPLODED = 100.0


@dataclass(frozen=True)
class LaunchedStep:
    """A step that was launched, perhaps not yet looked at.

    Attributes:
        result: what it leaves behind.
        batch: this rank's slice of its batch.
        valid: valid pictures in the global batch.
        step: which of the run, from 1.
        epoch: from 0.
    """

    result: StepResult
    batch: Batch
    valid: int
    step: int
    epoch: int


class Guard:
    """Looks at steps and at weights, and raises :class:`DivergedError` with the step, the pictures and what is left.

    All ranks must call each method together.

    Args:
        learner: whose steps and weights these are.
        world: the ranks.
        checkpoint: the run's last.pt, for the message.
        key: names the sample of an index of the training split.

    Attributes:
        saved_step: the step after which that checkpoint was written; 0 if there is none.
    """

    def __init__(self, learner: Learner, *, world: World, checkpoint: Path, key: Callable[[int], str]) -> None:
        self._learner, self._world, self._checkpoint, self._key = learner, world, checkpoint, key
        self.saved_step = 0

    def check_step(self, step: LaunchedStep, *, loss: float, norm: float) -> None:
        """Take in the global batch's loss and gradient norm."""
        scaled = self._learner.scaler.is_enabled()  # fp16 overflows now and then, and its scaler skips those steps
        if not abs(loss) <= EXPLODED:
            raise self._in_step(f"the loss became {loss:g}", step)
        if not (scaled or norm < float("inf")):
            raise self._in_step(f"the gradient became {norm:g}", step)

    def prove_weights(self, newest: LaunchedStep) -> None:
        """Refuse weights that the newest step has spoilt: its loss was that of the weights before it.

        One more forward pass on the newest batch, which leaves no trace; so a checkpoint is a good one.
        """
        loss = float(self._world.sum(trial_loss(self._learner, newest.batch, global_valid=newest.valid)))
        if not abs(loss) <= EXPLODED:
            raise self._in_step(f"the loss became {loss:g} right after the update", newest)

    def check_validation(self, loss: float, *, epoch: int) -> None:
        """Take in the validation loss of an epoch (from 0)."""
        if not math.isfinite(loss):
            raise self._ended(f"the validation loss became {loss:g} in epoch {epoch + 1}")

    def _in_step(self, what: str, step: LaunchedStep) -> DivergedError:
        indices = [index for part in self._world.gather(step.batch.index.tolist()) for index in part]
        keys = ", ".join(self._key(index) for index in dict.fromkeys(indices))
        where = f"at step {step.step} (epoch {step.epoch + 1}, batch {step.batch.number + 1})"
        return self._ended(f"{what} {where}, pictures {keys}")

    def _ended(self, what: str) -> DivergedError:
        saved = f"the last good checkpoint is {self._checkpoint} (step {self.saved_step})"
        return DivergedError(
            f"{what}; {saved if self.saved_step else 'no checkpoint was written before it'}; "
            "start anew with a smaller --lr, or with --clip-norm 1, or with --precision fp32"
        )
