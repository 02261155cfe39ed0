"""The loop over epochs: train, validate, keep. What a step does is in learner, where a run stands in position."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch

from petseg.host.device import Placement
from petseg.host.distributed import World
from petseg.host.stop_signals import InterruptedRunError, StopRequest
from petseg.inference.evaluation import Evaluation, evaluate
from petseg.inference.metrics import Scores, score
from petseg.report.console_reporter import Reporter
from petseg.runs.checkpoint import Checkpoint, save_checkpoint
from petseg.runs.command_line import resume_command
from petseg.runs.event_log import EventLog
from petseg.runs.recipe import Recipe, Running
from petseg.runs.run_folder import BEST, LAST, RunFolder
from petseg.training.guard import Guard, LaunchedStep
from petseg.training.image_sizes import size_of_epoch
from petseg.training.loaders import open_train_loader, open_validation_loader
from petseg.training.losses import balanced_class_weights
from petseg.training.progress import Position, position_from
from petseg.training.step import Learner
from pipeline import Batch, Loader
from shards import PetsegError, ShardSet


class Trainer:
    """One run, from where it stands to its end.

    Args:
        recipe: decides the weights.
        running: how to carry it out.
        shards: the data.
        folder: the run's folder on rank 0, None on the others.
        name: the folder's path, for messages, on every rank.
        placement: device and precision.
        world: the ranks.
        reporter: is told what happens.
        stop: set when the user wants to stop.
        resume_from: a checkpoint of this recipe, or None.
    """

    def __init__(
        self,
        *,
        recipe: Recipe,
        running: Running,
        shards: ShardSet,
        folder: RunFolder | None,
        name: Path,
        placement: Placement,
        world: World,
        reporter: Reporter,
        stop: StopRequest,
        resume_from: Checkpoint | None,
    ) -> None:
        self.recipe, self.running, self.shards = recipe, running, shards
        self.folder, self.name = folder, name
        self.placement, self.world, self.reporter, self.stop = placement, world, reporter, stop
        self.position, self.history = Position(), list[dict[str, Any]]()
        self._loader = self._open_train_loader(size_of_epoch(recipe, 0))
        self._validation = open_validation_loader(shards, recipe, running, device=placement.device, world=world)
        if self._validation is None:
            reporter.note("the set has no val split: the best epoch is chosen by its training pictures")
        self.learner = Learner(
            recipe,
            total_steps=recipe.epochs * len(self._loader),
            placement=placement,
            world=world,
            class_weights=self._class_weights(),
            compile_model=running.compile,
        )
        self._loader_state: dict[str, Any] | None = None
        if resume_from is not None:
            self.learner.load(resume_from)
            self.position = position_from(resume_from.position)
            self.history = list(resume_from.history)
            self._loader_state = resume_from.loader
        self._events = EventLog(name, self.history) if running.tensorboard and folder is not None else None
        self._confusion = torch.tensor(self.position.confusion, device=placement.device) * int(world.first)
        self._pending: deque[LaunchedStep] = deque()
        self._newest: LaunchedStep | None = None
        # A GPU is kept one step ahead of what the host has looked at, so that looking does not make it wait.
        self._lag = 1 if placement.on_gpu else 0
        self._guard = Guard(self.learner, world=world, checkpoint=name / LAST, key=shards.split("train").key)
        self._guard.saved_step = self.position.step
        self._saved = self._started = time.monotonic()

    def _open_train_loader(self, size: int) -> Loader:
        return open_train_loader(
            self.shards, self.recipe, self.running, size=size, device=self.placement.device, world=self.world
        )

    def _class_weights(self) -> torch.Tensor | None:
        if self.recipe.class_weights == "none":
            return None
        return balanced_class_weights(self.shards.manifest.splits["train"].class_pixels)

    def run(self) -> None:
        """Train until the last epoch, or until early stopping.

        Raises:
            InterruptedRunError: the user asked to stop; a checkpoint was written.
            DivergedError: the loss or the gradient became NaN or enormous.
        """
        try:
            while not self.position.finished:
                if self.position.phase == "train":
                    self._train_epoch()
                self._finish_epoch()
        finally:
            self._loader.close()
            if self._validation is not None:
                self._validation.close()
            if self._events is not None:
                self._events.close()

    def _train_epoch(self) -> None:
        self._prepare_loader()
        position, loader = self.position, self._loader
        self.reporter.start_epoch(epoch=position.epoch, done=position.pictures, images=loader.samples)
        for batch in self._timed(loader):
            valid = loader.valid_in_batch(batch.number)
            result = self.learner.step(batch, global_valid=valid, step=position.step)
            self._confusion += result.confusion
            position.step += 1
            position.pictures += valid
            if position.pictures == loader.samples:  # a checkpoint from here on belongs to the epoch's end
                position.phase = "validate"
            self._newest = LaunchedStep(
                result=result, batch=batch, valid=valid, step=position.step, epoch=position.epoch
            )
            self._pending.append(self._newest)
            if len(self._pending) > self._lag:
                self._settle()
        while self._pending:
            self._settle()
        self._prove_weights()
        position.confusion = self._total_confusion()

    def _prepare_loader(self) -> None:
        """Bring the loader to the batch that comes next."""
        size = size_of_epoch(self.recipe, self.position.epoch)
        if self._loader.size != size:
            self._loader.close()
            self._loader = self._open_train_loader(size)
        if self._loader_state is not None:
            self._loader.load_state_dict(self._loader_state)
            self._loader_state = None
        else:
            self._loader.set_epoch(self.position.epoch)

    def _timed(self, loader: Loader) -> Iterator[Batch]:
        """Yield the loader's batches, adding up the time spent waiting for them and in all."""
        batches = iter(loader)
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            got = time.monotonic()
            if batch is None:
                return
            yield batch
            self.position.wait_seconds += got - asked
            self.position.train_seconds += time.monotonic() - asked

    def _settle(self) -> None:
        """Look at the oldest pending step: count its loss, check it, and grant wishes to stop or to save."""
        pending = self._pending.popleft()
        facts = torch.stack([pending.result.loss, pending.result.grad_norm])
        wishes = torch.tensor([bool(self.stop), self._save_is_due()], dtype=torch.float32, device=facts.device)
        loss, stop, save = self.world.sum(torch.cat([facts[:1], wishes])).tolist()
        norm = float(facts[1])  # the same on every rank
        self._guard.check_step(pending, loss=loss, norm=norm)
        self.position.loss_sum += loss * pending.valid
        self.reporter.batch(
            images=pending.valid,
            loss=self.position.loss_sum / max(self.position.pictures - sum(p.valid for p in self._pending), 1),
            confusion=self._confusion,
            wait=self.position.wait_seconds / max(self.position.train_seconds, 1e-9),
            remaining=self._pictures_left(),
        )
        if stop or save:
            while self._pending:
                self._settle_quietly()
            self._prove_weights()
            self._save(LAST)
        if stop:
            self._leave()

    def _settle_quietly(self) -> None:
        pending = self._pending.popleft()
        loss = float(self.world.sum(pending.result.loss.clone()))
        self._guard.check_step(pending, loss=loss, norm=float(pending.result.grad_norm))
        self.position.loss_sum += loss * pending.valid

    def _prove_weights(self) -> None:
        """Before weights are kept; where just resumed, they were proven when they were saved."""
        if self._newest is not None and self._newest.step == self.position.step:
            self._guard.prove_weights(self._newest)

    def _save_is_due(self) -> bool:
        """Whether rank 0 wants a checkpoint within the epoch now."""
        if not self.world.first:
            return False
        minutes, steps = self.running.checkpoint_minutes, self.running.checkpoint_steps
        if minutes and time.monotonic() - self._saved >= 60 * minutes:
            return True
        return bool(steps) and self.position.step - self._guard.saved_step >= steps

    def _finish_epoch(self) -> None:
        """Validate, judge, keep."""
        validation = self._validate()
        if validation is not None:
            self._guard.check_validation(validation.loss or 0.0, epoch=self.position.epoch)
        train = score(self.position.confusion)
        entry = {
            "epoch": self.position.epoch + 1,
            "step": self.position.step,
            "size": size_of_epoch(self.recipe, self.position.epoch),
            "learning_rate": self.learner.optimizer.param_groups[0]["lr"],
            "train": {"loss": self.position.loss_sum / self.position.pictures, **msgspec.to_builtins(train)},
            "val": None if validation is None else {"loss": validation.loss, **msgspec.to_builtins(validation.scores)},
            "pictures_per_second": self.position.pictures / max(self.position.train_seconds, 1e-9),
            "wait_share": self.position.wait_seconds / max(self.position.train_seconds, 1e-9),
        }
        better = self._judge(train, validation)
        self.history.append({**entry, "best": better})
        self._next_epoch()
        if better:  # before last.pt: a kill between the two repeats this epoch and writes the same again
            self._save(BEST)
        self._save(LAST)
        if self.folder is not None:
            self.folder.write_metrics(self.history)
        if self._events is not None:
            self._events.add(self.history[-1])
        self.reporter.end_epoch(self.history[-1], epochs=self.recipe.epochs)

    def _judge(self, train: Scores, validation: Evaluation | None) -> bool:
        """Return whether this epoch is the best so far; one without its validation is not judged."""
        if validation is not None:
            return self.position.judge(validation.scores.mean_iou)
        return self._validation is None and self.position.judge(train.mean_iou)

    def _next_epoch(self) -> None:
        patience = self.recipe.patience
        out_of_patience = bool(patience) and self.position.stale_epochs >= patience
        if out_of_patience:
            self.reporter.note(f"no better epoch than {self.position.best_epoch} in {patience}: stopping early")
        self.position.finished = out_of_patience or self.position.epoch + 1 >= self.recipe.epochs
        self.position.start_epoch(self.position.epoch + 1)
        self._confusion.zero_()

    def _validate(self) -> Evaluation | None:
        if self._validation is None or not self.recipe.validates(self.position.epoch):
            return None
        self.reporter.start_validation(images=self._validation.samples)
        self._validation.set_epoch(0)
        return evaluate(
            self.learner.evaluated,
            self._validation,
            placement=self.placement,
            world=self.world,
            loss_sum=self.learner.validation_loss,
            after_batch=self._after_validation_batch,
        )

    def _after_validation_batch(self, pictures: int) -> None:
        self.reporter.validated(pictures)
        if self.world.any(bool(self.stop), device=self.placement.device):
            self._save(LAST)
            self._leave()

    def _total_confusion(self) -> list[list[int]]:
        total: list[list[int]] = self.world.sum(self._confusion.clone()).tolist()
        return total

    def _pictures_left(self) -> int:
        epochs = self.recipe.epochs - self.position.epoch
        return epochs * self._loader.samples - self.position.pictures

    def _save(self, name: str) -> None:
        """Write a checkpoint of this moment; all ranks call it, rank 0 writes."""
        now = time.monotonic()
        self.position.seconds += now - self._started
        self._started = now
        middle = self.position.phase == "train" and self.position.pictures > 0
        self.position.confusion = self._total_confusion()
        if self.folder is not None:
            checkpoint = Checkpoint(
                config=msgspec.to_builtins(self.recipe),
                position=msgspec.to_builtins(self.position),
                history=self.history,
                # At the edge of an epoch the position says it all, and the next epoch may have another size.
                loader=self._loader.state_dict() if middle else None,
                **self.learner.state(),  # type: ignore[arg-type]
            )
            try:
                save_checkpoint(self.folder / name, checkpoint)
            except OSError as error:
                raise PetsegError(
                    f"{self.folder / name} cannot be written ({error.strerror or error}); the one before it stays; "
                    f"once that is mended, go on with: {resume_command(self.name, self.world)}"
                ) from None
        self._saved, self._guard.saved_step = time.monotonic(), self.position.step

    def _leave(self) -> None:
        numbers = [number for number in self.world.gather(self.stop.signal) if number is not None]
        raise InterruptedRunError(
            f"stopped in epoch {self.position.epoch + 1} after step {self.position.step}, nothing is lost; "
            f"go on with: {resume_command(self.name, self.world)}",
            number=numbers[0],
        )
