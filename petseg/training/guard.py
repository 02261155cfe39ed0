"""Ends a run that has diverged: a loss or gradient that is non-finite or far too large, and in which step."""

from collections.abc import Callable, Sequence
from pathlib import Path

from petseg.host.distributed import World
from petseg.host.stop_signals import DivergedError
from petseg.runs.history import LARGEST_LOSS
from petseg.training.step import TrainStep
from petseg.training.step_log import LaunchedStep, StepFacts
from pipeline import Batch
from shards.errors import spelled

MIN_SCALE = 1e-3  # of the loss in fp16; it starts at 65536 and halves whenever a gradient overflows


class DivergenceGuard:
    """Checks losses, gradients and weights; raises :class:`DivergedError` with the step, its images and what to do.

    Every rank must call each method. ``checkpoint`` is the run's last.pt and ``saved_step`` the step after which it was
    written, 0 if there is none; ``key`` returns the key of a training sample by its index.
    """

    def __init__(self, train_step: TrainStep, *, world: World, checkpoint: Path, key: Callable[[int], str]) -> None:
        self._train_step, self._world, self._checkpoint, self._key = train_step, world, checkpoint, key
        self.saved_step = 0

    def check_step(self, step: StepFacts, *, later: Sequence[StepFacts] = ()) -> None:
        """Check a step's loss and gradient norm; ``later`` steps were launched before this one was read."""
        scaled = self._train_step.scaler.is_enabled()  # fp16 overflows now and then; its scaler skips those steps
        if not abs(step.loss) <= self._train_step.max_loss:
            raise self._step_error(f"the loss became {step.loss:g}", step.launched, skipped=[step, *later])
        if not (scaled or step.grad_norm < float("inf")):
            raise self._step_error(f"the gradient became {step.grad_norm:g}", step.launched, skipped=[step, *later])
        if step.scale < MIN_SCALE:
            what = f"the gradients overflow in fp16 in every step: the loss scale fell to {step.scale:g}"
            raise self._step_error(what, step.launched)

    def check_weights(self, newest: LaunchedStep, batch: Batch) -> None:
        """Check the weights after the newest step, so that a diverged checkpoint is never written.

        That step's own loss is the one before its update; so this computes the loss of its ``batch`` once more.
        """
        loss = float(self._world.sum(self._train_step.loss_without_update(batch, global_valid=newest.valid)))
        if not abs(loss) <= self._train_step.max_loss:
            raise self._step_error(f"the loss became {loss:g} right after the update", newest)

    def check_validation(self, loss: float, *, epoch: int) -> None:
        """Check the validation loss of an epoch (from 0)."""
        if not abs(loss) <= LARGEST_LOSS:
            raise self._error(f"the validation loss became {loss:g} in epoch {epoch + 1}")

    def _step_error(self, what: str, step: LaunchedStep, *, skipped: Sequence[StepFacts] = ()) -> DivergedError:
        indices = [index for part in self._world.gather(step.index.tolist()) for index in part]
        keys = ", ".join(self._key(index) for index in dict.fromkeys(indices))
        where = f"at step {step.step} (epoch {step.epoch + 1}, batch {step.batch + 1})"
        count = sum(one.skipped for one in skipped)
        updates = f"; {count} {'update was' if count == 1 else 'updates were'} skipped until it was noticed"
        return self._error(f"{what} {where}, images {keys}{updates if count else ''}")

    def _error(self, what: str) -> DivergedError:
        saved = f"the last good checkpoint is {self._checkpoint} (step {self.saved_step})"
        advice = [spelled("a smaller --lr")]
        if not self._train_step.recipe.clip_norm:
            advice.append(spelled("--clip-norm=1"))
        if self._train_step.placement.precision != "fp32":
            advice.append(spelled("--precision=fp32"))
        return DivergedError(
            f"{what}; {saved if self.saved_step else 'no checkpoint was written before it'}; "
            f"start again with {', or with '.join(advice)}"
        )
