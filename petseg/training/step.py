"""One optimisation step: forward, loss, backward, update, weight average. Knows nothing of epochs, files or output."""

import contextlib
import functools
import inspect
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.func import functional_call

from petseg.host.device import Placement
from petseg.host.distributed import World
from petseg.inference.metrics import confusion, predicted_class
from petseg.nets.batchnorm import synchronise_batch_norm
from petseg.nets.factory import build_model, place
from petseg.optim.ema import WeightAverage, default_decay
from petseg.optim.learning_rate import learning_rate_at
from petseg.optim.muon import Muon
from petseg.runs.checkpoint import Checkpoint, State
from petseg.runs.recipe import Recipe
from petseg.training.losses import segmentation_loss
from pipeline import Batch

# Buffers need no broadcast: batch statistics are the global batch's on every rank. Newer torch renames the argument.
_DDP_ARGUMENTS = inspect.signature(nn.parallel.DistributedDataParallel).parameters
_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _DDP_ARGUMENTS else "broadcast_buffers"


@dataclass(frozen=True)
class StepResult:
    """The results of a step, on the device, not synchronised."""

    loss: torch.Tensor  # this rank's share of the global batch's mean loss: float32 scalar
    confusion: torch.Tensor  # labelled pixels of this rank's valid images, [true, predicted]: int64 (N, N)
    grad_norm: torch.Tensor  # 2-norm of the global batch's gradient before clipping: float32 scalar


class TrainStep:
    """A network (``model``) with everything that a step changes: its average or None, optimiser, gradient scaler.

    ``total_steps`` is the number of steps in the whole run, on which the learning rate depends.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        total_steps: int,
        placement: Placement,
        world: World | None = None,
        class_weights: torch.Tensor | None = None,
        compile_model: bool = False,
    ) -> None:
        self.recipe = recipe
        self.placement = placement
        self.world = world or World()
        self.total_steps = total_steps
        torch.manual_seed(recipe.seed)
        self.model = build_model(recipe.model)
        if self.world.size > 1:
            synchronise_batch_norm(self.model, placement.device)
        place(self.model, placement.device)
        decay = default_decay(total_steps) if recipe.ema_decay is None else recipe.ema_decay
        self.average = WeightAverage(self.model, decay=decay) if decay else None
        self.optimizer = build_optimizer(self.model, recipe)
        self.scaler = placement.scaler()
        self._loss = functools.partial(
            segmentation_loss,
            dice_weight=recipe.dice_weight,
            class_weights=None if class_weights is None else class_weights.to(placement.device),
            label_smoothing=recipe.label_smoothing,
        )
        self._network = self._wrap(compile_model)

    def _wrap(self, compile_model: bool) -> nn.Module:
        network = self.model
        if self.world.size > 1:
            ids = [self.placement.device] if self.placement.on_gpu else None
            arguments: dict[str, Any] = {"device_ids": ids, _BUFFERS: False}
            network = nn.parallel.DistributedDataParallel(network, **arguments)
        return cast(nn.Module, torch.compile(network)) if compile_model else network

    @property
    def evaluated_model(self) -> nn.Module:
        """The network to validate and to predict with: the average if there is one; in evaluation mode."""
        return (self.model if self.average is None else self.average.model).eval()

    def run(self, batch: Batch, *, global_valid: int, step: int) -> StepResult:
        """Take step ``step`` of the run (from 0) on this rank's slice of a global batch, with class-index masks.

        ``global_valid`` is the number of valid images in the global batch.
        """
        self.model.train()
        # Dropout depends on (seed, step, rank) only, so there is no random state to save.
        torch.manual_seed((self.recipe.seed * 1_000_003 + step) * 65_536 + self.world.rank & (2**63 - 1))
        self._set_learning_rate(step)
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.placement.device)
        classes = self.recipe.model.classes
        counts = torch.zeros(classes, classes, dtype=torch.int64, device=self.placement.device)
        chunks = [tensor.chunk(self.recipe.accumulate) for tensor in (batch.image, batch.mask, batch.valid)]
        micro_batches = list(zip(*chunks, strict=True))
        for number, (image, mask, valid) in enumerate(micro_batches, start=1):
            with self._gradient_sync(last=number == len(micro_batches)):
                with self.placement.autocast():
                    logits = self._network(image)
                part = self._loss(logits, mask, valid, global_valid=global_valid)
                # DDP averages the ranks' gradients, but their losses are shares of one sum.
                self.scaler.scale(part * self.world.size).backward()  # type: ignore[no-untyped-call]
            loss += part.detach()
            by_image = confusion(mask, predicted_class(logits.detach()), classes=classes)
            counts += (by_image * valid.view(-1, 1, 1)).sum(dim=0)
        norm = self._update()
        if self.average is not None:
            self.average.update(self.model, step=step)
        return StepResult(loss=loss, confusion=counts, grad_norm=norm)

    def _gradient_sync(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        """Gradients are reduced over the ranks with the last micro-batch only."""
        if self.world.size > 1 and not last:
            return self._network.no_sync()  # type: ignore[operator, no-any-return]
        return contextlib.nullcontext()

    def validation_loss(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the *sum* of the training loss over a batch's valid images: float32 scalar."""
        return self._loss(logits, batch.mask, batch.valid, global_valid=1)

    @torch.no_grad()
    def loss_without_update(self, batch: Batch, *, global_valid: int) -> torch.Tensor:
        """Return this rank's share of the loss that the next step would meet on a batch: float32 scalar.

        Computed as in training (batch statistics, dropout, precision), but leaves the network unchanged. Every rank
        must call this, because batch statistics are those of all ranks.
        """
        model = self.model.train()
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}  # a forward pass changes them
        with self.placement.autocast():
            logits = functional_call(model, buffers, (batch.image,))
        return self.validation_loss(logits, batch) / global_valid

    def _set_learning_rate(self, step: int) -> None:
        recipe = self.recipe
        rate = learning_rate_at(
            step, total_steps=self.total_steps, peak=recipe.lr, schedule=recipe.schedule, warmup=recipe.warmup
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _update(self) -> torch.Tensor:
        self.scaler.unscale_(self.optimizer)
        limit = self.recipe.clip_norm or float("inf")
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        self.scaler.step(self.optimizer)  # the scaler skips a step that overflowed in fp16
        self.scaler.update()
        return norm.detach()

    def state(self) -> dict[str, State | None]:
        """Return the tensors of a :class:`Checkpoint`."""
        return {
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load(self, checkpoint: Checkpoint) -> None:
        """Restore the state from a checkpoint of the same recipe."""
        self.model.load_state_dict(checkpoint.model)
        if self.average is not None and checkpoint.average is not None:
            self.average.model.load_state_dict(checkpoint.average)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        if checkpoint.scaler:
            self.scaler.load_state_dict(checkpoint.scaler)


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return Adam, or AdamW or Muon with weight decay on convolution kernels only, not on scales and biases."""
    if recipe.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr=recipe.lr)
    kernels = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return Muon(groups, lr=recipe.lr) if recipe.optimizer == "muon" else torch.optim.AdamW(groups, lr=recipe.lr)
