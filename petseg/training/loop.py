"""The loop over epochs: train, validate, write checkpoints and metrics."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from petseg.host.stop_signals import InterruptedRunError, StopRequest
from petseg.inference.evaluation import Evaluation, evaluate
from petseg.inference.metrics import score
from petseg.loggers.run_loggers import RunLoggers
from petseg.report.console_reporter import Reporter
from petseg.runs.checkpoint import Checkpoint, save_checkpoint
from petseg.runs.command_line import resume_command
from petseg.runs.run_config import RunConfig
from petseg.runs.run_folder import BEST, LAST, RunFolder
from petseg.training.cuda_graph import chooses_graph
from petseg.training.guard import DivergenceGuard
from petseg.training.losses import balanced_class_weights
from petseg.training.progress import Progress, expect_possible, read_progress
from petseg.training.run_data import note_reading, open_validation_loader, size_of_epoch, train_loader_of_epoch
from petseg.training.step import TrainStep
from petseg.training.step_log import LaunchedStep, LogBlock, StepLog, default_steps
from pipeline import Batch, Loader


class TrainingLoop:
    """One run, from its current progress to its end.

    ``folder`` is the run's folder on rank 0 and None on the others, ``path`` its path on every rank; ``resume_from`` is
    a checkpoint of the same recipe, or None. ``initialise``: see :class:`TrainStep`.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        folder: RunFolder | None,
        path: Path,
        reporter: Reporter,
        stop: StopRequest,
        resume_from: Checkpoint | None,
        loggers: RunLoggers,
        initialise: Callable[[nn.Module], None] | None = None,
    ) -> None:
        self.config, self.recipe, self.world = config, config.recipe, config.world
        self.folder, self.path, self.reporter, self.stop = folder, path, reporter, stop
        self.progress, self.history = Progress(), list[dict[str, Any]]()
        reporter.start_run(labels=config.labels)
        self._loader = train_loader_of_epoch(config, 0)
        self._validation = open_validation_loader(config)
        if self._validation is None:
            reporter.note("the set has no val split: the best epoch is chosen by its training scores")
        pixels = config.data.manifest.splits["train"].class_pixels
        compiled, asked = config.runtime.compile, config.runtime.cuda_graph
        self.train_step = TrainStep(
            self.recipe,
            total_steps=self.recipe.epochs * len(self._loader),
            placement=config.placement,
            world=self.world,
            class_weights=balanced_class_weights(pixels) if self.recipe.class_weights == "balanced" else None,
            compile_model=compiled,
            cuda_graph=chooses_graph(asked, config.placement, self.world, compiled=compiled),
            initialise=initialise,
            note=reporter.note,
        )
        if resume_from is not None:
            self.train_step.load(resume_from)
            self.progress = read_progress(resume_from)
            self.history = list(resume_from.history)
            self._prepare_loader(resume_from.loader)
            expect_possible(self.progress, resume_from, batches=len(self._loader))
        labels = config.labels
        self._loggers = loggers
        loggers.open(self.history)
        self._confusion = torch.zeros(len(labels), len(labels), dtype=torch.int64, device=config.placement.device)
        if self.progress.confusion and self.world.first:
            self._confusion += torch.tensor(self.progress.confusion, device=config.placement.device)
        every = config.runtime.log_every or default_steps(config.placement.device)
        self._log = StepLog(config.placement.device, self.world, every)
        self._newest: tuple[LaunchedStep, Batch] | None = None
        self._validated = 0  # batches, in the current validation
        self._guard = DivergenceGuard(
            self.train_step, world=self.world, checkpoint=path / LAST, key=config.data.split("train").key
        )
        self._guard.saved_step = self.progress.step
        self._saved_at = self._timed_from = self._counted_to = time.monotonic()

    def run(self) -> None:
        """Train until the last epoch, or until early stopping.

        Raises ``InterruptedRunError`` if the user asked to stop, with a checkpoint written, and ``DivergedError``.
        """
        try:
            while not self.progress.finished:
                if self.progress.phase == "train":
                    self._train_epoch()
                self._finish_epoch()
        finally:
            for resource in (self._loader, self._validation):
                if resource is not None:
                    resource.close()

    def _train_epoch(self) -> None:
        self._prepare_loader()
        progress, loader = self.progress, self._loader
        self.reporter.start_epoch(epoch=progress.epoch, done=progress.images, images=loader.slices.epoch_samples)
        for batch in self._timed(loader):
            valid = loader.valid_in_batch(batch.number)
            unsure = self.world.size > 1 and self.config.runtime.on_error == "replace"  # who knows only its own ones
            result = self.train_step.run(batch, global_valid=None if unsure else valid, step=progress.step)
            self._confusion += result.confusion
            progress.step += 1
            progress.images += valid
            if batch.number + 1 == len(loader):  # a checkpoint from here on belongs to the epoch's end
                progress.phase = "validate"
            launched = LaunchedStep(batch.index, batch.number, valid, step=progress.step, epoch=progress.epoch)
            self._newest = launched, batch
            if self._log.add(result, launched):
                self._finish_block()
        if self._log.partial:
            self._finish_block()
        for block in self._log.read_blocks(all_of_them=True):
            self._use(block)
        self._check_weights()
        progress.confusion = self._total_confusion()

    def _finish_block(self) -> None:
        self._log.finish_block(self._confusion, stop=bool(self.stop), save=self._save_is_due())
        for block in self._log.read_blocks():
            self._use(block)

    def _prepare_loader(self, state: dict[str, Any] | None = None) -> None:
        """Open the loader with the epoch's image size and augmentation and move it to the next batch, or to a state."""
        self._loader = train_loader_of_epoch(self.config, self.progress.epoch, opened=self._loader)
        if state is not None:
            self._loader.load_state_dict(state)
        elif self._loader.epoch != self.progress.epoch:  # else it is at the epoch's start, or where it continues
            self._loader.set_epoch(self.progress.epoch)

    def _timed(self, loader: Loader) -> Iterator[Batch]:
        """Yield the loader's batches and add up the time spent waiting for them, and in all."""
        batches = iter(loader)
        self._counted_to = time.monotonic()
        while (batch := next(batches, None)) is not None:
            self.progress.wait_seconds += time.monotonic() - self._counted_to
            yield batch
            self._count_time()

    def _count_time(self) -> None:
        """Count the time since the batch was requested; before a checkpoint, too, since that counts its images."""
        self._counted_to, before = time.monotonic(), self._counted_to
        self.progress.train_seconds += self._counted_to - before

    def _use(self, block: LogBlock) -> None:
        """Report the steps of a block; save a checkpoint or stop if any rank requires it."""
        progress = self.progress
        self._check(block)
        done = progress.images - self._log.unread_images
        self.reporter.batch(
            images=sum(step.valid for step in block.steps),
            loss=progress.loss_sum / max(done, 1),
            confusion=block.confusion,
            wait=progress.wait_seconds / max(progress.train_seconds, 1e-9),
            remaining=(self.recipe.epochs - progress.epoch) * self._loader.slices.epoch_samples - progress.images,
        )
        if block.stop or block.save:
            for later in self._log.read_blocks(all_of_them=True):
                self._check(later)
            self._check_weights()
            self._count_time()
            self._save(LAST)
        if block.stop:
            self._raise_interrupted()

    def _check(self, block: LogBlock) -> None:
        """Check a block's steps, add their losses, and count the updates that were skipped."""
        for number, step in enumerate(block.steps, start=1):
            self._guard.check_step(step, later=block.steps[number:])
            self.progress.loss_sum += step.loss * step.valid
            self.progress.images += step.valid - step.launched.valid  # other ranks' samples that were replaced
            self.progress.skipped += step.skipped

    def _check_weights(self) -> None:
        """Check the weights before they are saved; those just resumed from were checked when they were saved."""
        if self._newest is not None and self._newest[0].step == self.progress.step:
            self._guard.check_weights(*self._newest)

    def _save_is_due(self) -> bool:
        """Whether a checkpoint within the epoch is due; rank 0 decides."""
        if not self.world.first:
            return False
        minutes, steps = self.config.runtime.checkpoint_minutes, self.config.runtime.checkpoint_steps
        if minutes and time.monotonic() - self._saved_at >= 60 * minutes:
            return True
        return bool(steps) and self.progress.step - self._guard.saved_step >= steps

    def _finish_epoch(self) -> None:
        """Validate, decide whether the epoch is the best, write checkpoints and metrics, and go to the next epoch."""
        validation = self._validate()
        if validation is not None:
            self._guard.check_validation(validation.loss or 0.0, epoch=self.progress.epoch)
        progress = self.progress
        train = score(progress.confusion, self.config.labels)
        entry = {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "size": size_of_epoch(self.recipe, progress.epoch),
            "learning_rate": self.train_step.learning_rate(progress.step - 1),
            "train": {"loss": progress.loss_sum / progress.images, **msgspec.to_builtins(train)},
            "val": None if validation is None else {"loss": validation.loss, **msgspec.to_builtins(validation.scores)},
            "pictures_per_second": progress.images / max(progress.train_seconds, 1e-9),
            "wait_share": progress.wait_seconds / max(progress.train_seconds, 1e-9),
        }
        if validation is not None:
            best = progress.update_best(validation.scores.mean_iou)
        else:  # an epoch without its validation cannot be the best, unless there is nothing to validate on
            best = self._validation is None and progress.update_best(train.mean_iou)
        replaced = note_reading(self.reporter, [self._loader, self._validation], self.world)
        self.history.append({**entry, "best": best, "replaced": replaced})
        self._next_epoch()
        if best:  # before last.pt: a kill between the two repeats this epoch and writes the same again
            self._save(BEST)
        # After the first one, too: finished epochs without a checkpoint look like those of a damaged run.
        chosen = progress.epoch % self.config.runtime.checkpoint_epochs == 0 or progress.epoch == 1
        if best or progress.finished or chosen:
            self._save(LAST)
        elif self.folder is not None:  # the loggers write into it
            self.folder.expect_own()
        self._loggers.log(self.history[-1])
        self.reporter.end_epoch(self.history[-1], epochs=self.recipe.epochs)

    def _next_epoch(self) -> None:
        progress, patience = self.progress, self.recipe.patience
        out_of_patience = bool(patience) and progress.stale_epochs >= patience
        if out_of_patience:
            self.reporter.note(f"stopping early: no epoch after {progress.best_epoch} was better")
        progress.finished = out_of_patience or progress.epoch + 1 >= self.recipe.epochs
        progress.start_epoch(progress.epoch + 1)
        self._confusion.zero_()

    def _validate(self) -> Evaluation | None:
        if self._validation is None or not self.recipe.validates(self.progress.epoch):
            return None
        self.reporter.start_validation(images=self._validation.samples)
        self._validated = 0
        self._validation.set_epoch(0)
        return evaluate(
            self.train_step.evaluated_model,
            self._validation,
            placement=self.config.placement,
            world=self.world,
            loss_sum=self.train_step.validation_loss,
            after_batch=self._after_validation_batch,
        )

    def _after_validation_batch(self, images: int) -> None:
        self.reporter.validated(images)
        self._validated += 1
        if self.world.size > 1 and self._validated % self._log.every:  # ranks must agree, which makes them wait
            return
        if self.world.any(bool(self.stop), device=self.config.placement.device):
            self._save(LAST)
            self._raise_interrupted()

    def _total_confusion(self) -> list[list[int]]:
        return self.world.sum(self._confusion.clone()).tolist()

    def _save(self, name: str) -> None:
        """Write a checkpoint of the current state; every rank calls this, rank 0 writes."""
        now = time.monotonic()
        self.progress.seconds += now - self._timed_from
        self._timed_from = now
        within_epoch = self.progress.phase == "train" and self.progress.images > 0
        self.progress.confusion = self._total_confusion()
        if self.folder is not None:
            checkpoint = Checkpoint(
                config=msgspec.to_builtins(self.recipe),
                labels=self.config.labels,
                position=msgspec.to_builtins(self.progress),
                history=self.history,
                # Not between epochs: the next epoch's loader may have another image size.
                loader=self._loader.state_dict() if within_epoch else None,
                **self.train_step.state(),  # type: ignore[arg-type]
            )
            self.folder.expect_own()
            save_checkpoint(self.folder / name, checkpoint.for_prediction() if name == BEST else checkpoint)
        self._saved_at, self._guard.saved_step = time.monotonic(), self.progress.step

    def _raise_interrupted(self) -> None:
        numbers = [number for number in self.world.gather(self.stop.signal) if number is not None]
        raise InterruptedRunError(
            f"stopped in epoch {self.progress.epoch + 1}, after step {self.progress.step} of "
            f"{self.train_step.total_steps}, nothing is lost; continue with: {resume_command(self.path, self.world)}",
            number=numbers[0],
        )
