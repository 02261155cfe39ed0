"""One optimisation step: forward, loss, backward, update, weight average. Knows nothing of epochs, files or output."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import nn
from torch.func import functional_call

from petseg.host.device import Placement
from petseg.host.distributed import World
from petseg.inference.metrics import confusion, predicted_class
from petseg.nets.batchnorm import synchronise_batch_norm
from petseg.nets.factory import build_model, place
from petseg.nets.sample_dropout import SampleDropout2d, sample_numbers, step_key
from petseg.nets.weight_gradients import use_one_thread_where_two_wait
from petseg.optim.ema import WeightAverage, default_decay
from petseg.optim.learning_rate import learning_rate_at
from petseg.optim.muon import Muon
from petseg.optim.parameter_groups import current_state, parameter_groups, without_rates
from petseg.runs.checkpoint import Checkpoint, State, check_optimizer, damage_of, load_weights
from petseg.runs.recipe import Recipe
from petseg.training.cuda_graph import GraphedStep
from petseg.training.encoder_start import FrozenEncoder, hold_encoder
from petseg.training.losses import loss_limit, segmentation_loss
from petseg.training.running_statistics import RunningStatistics
from pipeline import Batch

# Buffers need no broadcast: batch statistics are the global batch's on every rank. Newer torch renames the argument.
_DDP_ARGUMENTS = inspect.signature(nn.parallel.DistributedDataParallel).parameters
_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _DDP_ARGUMENTS else "broadcast_buffers"


@dataclass(frozen=True)
class StepResult:
    """The results of a step, on the device, not synchronised; with a CUDA graph the next step overwrites them."""

    FACTS: ClassVar = ("loss", "grad_norm", "skipped", "scale", "valid")

    facts: torch.Tensor  # the global batch's loss, and so on as in FACTS: float32 (5,); see StepFacts
    confusion: torch.Tensor  # labelled pixels of this rank's valid images, [true, predicted]: int64 (N, N)

    @property
    def loss(self) -> torch.Tensor:
        """The global batch's mean loss, a float32 scalar."""
        return self.facts[0]

    @property
    def grad_norm(self) -> torch.Tensor:
        """The 2-norm of the global batch's gradient before clipping, a float32 scalar."""
        return self.facts[1]

    @property
    def skipped(self) -> torch.Tensor:
        """Not 0 where loss or gradient were non-finite or too large, so that nothing was updated: a float32 scalar."""
        return self.facts[2]


class TrainStep:
    """A network (``model``) with everything that a step changes: its average or None, optimiser, gradient scaler.

    ``total_steps`` is the number of steps in the whole run, on which the learning rate depends. No step makes the host
    wait for the device. ``cuda_graph``: see :mod:`petseg.training.cuda_graph`; one process, not fp16. ``initialise``
    changes the fresh network's weights, on its device and on every rank. ``note`` receives what the user should know.
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
        cuda_graph: bool = False,
        initialise: Callable[[nn.Module], None] | None = None,
        note: Callable[[str], None] = lambda text: None,
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
        if initialise is not None:
            initialise(self.model)
        hold_encoder(self.model, recipe)
        decay = default_decay(total_steps) if recipe.ema_decay is None else recipe.ema_decay
        self.average = WeightAverage(self.model, decay=decay) if decay else None
        if placement.precision == "bf16" and not (placement.on_gpu or compile_model):
            use_one_thread_where_two_wait(self.model)
        self._statistics = RunningStatistics(self.model)
        self.optimizer = build_optimizer(self.model, recipe)
        for group in self.optimizer.param_groups:  # a tensor, so that a graph need not be captured for each rate
            group["lr"] = torch.zeros((), device=placement.device)
            if cuda_graph and "capturable" in group:
                group["capturable"] = True
        self.scaler = placement.scaler()
        self._scale = torch.ones((), device=placement.device)  # of the loss, unless the scaler has one
        self._global_valid = torch.ones((), device=placement.device)
        dropouts = (module for module in self.model.modules() if isinstance(module, SampleDropout2d))
        self._dropouts = [module for module in dropouts if module.p]
        self._dropout_key = torch.zeros((), dtype=torch.int64, device=placement.device)
        self.max_loss = loss_limit(dice_weight=recipe.dice_weight, class_weights=class_weights)
        self._loss = functools.partial(
            segmentation_loss,
            dice_weight=recipe.dice_weight,
            class_weights=None if class_weights is None else class_weights.to(placement.device),
            label_smoothing=recipe.label_smoothing,
        )
        evaluated = self.model if self.average is None else self.average.model
        self._evaluated = torch.compile(evaluated) if compile_model else evaluated
        self._compile, self._cuda_graph, self._note = compile_model, cuda_graph, note
        self._frozen = FrozenEncoder(self.model, steps=recipe.encoder_freeze * total_steps // recipe.epochs)
        self._prepare()

    def _prepare(self) -> None:
        """Wrap the network for its present set of trained parameters: again when the encoder begins to train."""
        self._network = self._wrap()
        self._run = GraphedStep(self._compute, note=self._note) if self._cuda_graph else self._compute

    def _wrap(self) -> nn.Module:
        network = self.model
        if self.world.size > 1:
            ids = [self.placement.device] if self.placement.on_gpu else None
            arguments: dict[str, Any] = {"device_ids": ids, _BUFFERS: False}
            network = nn.parallel.DistributedDataParallel(network, **arguments)
        return cast(nn.Module, torch.compile(network)) if self._compile else network

    @property
    def evaluated_model(self) -> nn.Module:
        """The network to validate and to predict with: the average if there is one; in evaluation mode."""
        (self.model if self.average is None else self.average.model).eval()
        return cast(nn.Module, self._evaluated)

    def run(self, batch: Batch, *, global_valid: int | None, step: int) -> StepResult:
        """Take step ``step`` of the run (from 0) on this rank's slice of a global batch, with class-index masks.

        ``global_valid`` is the number of valid images in the global batch; None: the ranks count them, on the device.
        Where its loss or its gradient is non-finite or too large, the step changes nothing but the weight average,
        which moves on towards the same weights.
        """
        if self._frozen.advance(step):
            self._prepare()
        self.model.train()
        # Dropout depends on (seed, step) and the image's place in the batch, and nothing else is drawn, so there is no
        # random state to save. A network that drew by itself would at least draw the same after a resume.
        self._dropout_key.fill_(step_key(self.recipe.seed, step))
        torch.manual_seed((self.recipe.seed * 1_000_003 + step) * 65_536 + self.world.rank & (2**63 - 1))
        for group in self.optimizer.param_groups:
            group["lr"].fill_(self.learning_rate(step) * group.get("share", 1.0))
        if global_valid is None:
            self._global_valid.copy_(self.world.sum(batch.valid.sum()))
        else:
            self._global_valid.fill_(global_valid)
        result = self._run(batch.image, batch.mask, batch.valid)
        if self.average is not None:
            self.average.update(step=step)
        return result

    def _compute(self, image: torch.Tensor, mask: torch.Tensor, valid: torch.Tensor) -> StepResult:
        """Take a step; nothing in here depends on anything on the host that changes, nor waits for the device."""
        self.optimizer.zero_grad(set_to_none=True)
        losses, counts = list[torch.Tensor](), list[torch.Tensor]()
        divisor = self._global_valid.clamp(min=1)
        for images, masks, valids, last in self._micro_batches(image, mask, valid):
            with self._gradient_sync(last=last):
                with self.placement.autocast():
                    logits = self._network(images)
                part = self._loss(logits, masks, valids, global_valid=divisor)
                # DDP averages the ranks' gradients, but their losses are shares of one sum.
                scaled = part * self.world.size if self.world.size > 1 else part
                self.scaler.scale(scaled).backward()  # type: ignore[no-untyped-call]
            losses.append(part.detach())
            by_image = confusion(masks, predicted_class(logits.detach()), classes=self.recipe.model.classes)
            counts.append((by_image * valids.view(-1, 1, 1)).sum(dim=0))
        loss = self.world.sum(functools.reduce(torch.add, losses).clone())
        facts = torch.stack([loss, *self._update(loss), self._global_valid])
        return StepResult(facts=facts, confusion=functools.reduce(torch.add, counts))

    def _micro_batches(
        self, image: torch.Tensor, mask: torch.Tensor, valid: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, bool]]:
        """Yield image, mask and valid of each micro-batch, dropout set to its images, and whether it is the last."""
        images = len(image)  # on each rank
        positions = torch.arange(images, device=self.placement.device) + self.world.rank * images
        samples = sample_numbers(self._dropout_key, positions) if self._dropouts else positions
        parts = self.recipe.accumulate
        chunks = [tensor.chunk(parts) if parts > 1 else (tensor,) for tensor in (image, mask, valid, samples)]
        for number, (*chunk, samples) in enumerate(zip(*chunks, strict=True), start=1):
            for dropout in self._dropouts:
                dropout.samples = samples
            yield chunk[0], chunk[1], chunk[2], number == len(chunks[0])

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

        Computed as in training (micro-batches, batch statistics, precision; with the dropout of the last step), but
        leaves the network unchanged. Every rank must call this, because batch statistics are those of all ranks.
        """
        model = self.model.train()
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}  # a forward pass changes them
        loss = torch.zeros((), device=self.placement.device)
        for images, masks, valids, _ in self._micro_batches(batch.image, batch.mask, batch.valid):
            with self.placement.autocast():
                logits = functional_call(model, buffers, (images,))
            loss += self._loss(logits, masks, valids, global_valid=global_valid)
        return loss

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step of the run (from 0)."""
        recipe = self.recipe
        return learning_rate_at(
            step, total_steps=self.total_steps, peak=recipe.lr, schedule=recipe.schedule, warmup=recipe.warmup
        )

    def _update(self, loss: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Update the weights unless loss or gradient forbid it; return the norm, whether skipped, and the scale."""
        self.scaler.unscale_(self.optimizer)
        limit = self.recipe.clip_norm or float("inf")
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit, foreach=True).detach()
        good = (loss.abs() <= self.max_loss) & norm.isfinite()  # a NaN is not <= anything
        skipped = (~good).float()
        # All optimisers here are fused: they look at found_inf on the device. The scaler's step would be the same, but
        # knows no loss.
        self.optimizer.found_inf = skipped  # type: ignore[attr-defined]
        self.optimizer.step()
        self.scaler.update()
        self._statistics.settle(good)
        scale = self.scaler._scale if self.scaler.is_enabled() else None  # its get_scale() waits for the device
        return norm, skipped, self._scale if scale is None else scale

    def state(self) -> dict[str, State | None]:
        """Return the tensors of a :class:`Checkpoint`."""
        return {
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.model.state_dict(),
            "optimizer": without_rates(self.optimizer.state_dict()),
            "scaler": self.scaler.state_dict(),
        }

    def load(self, checkpoint: Checkpoint) -> None:
        """Restore the state from a checkpoint of the same recipe; ``CheckpointError`` if it does not fit."""
        load_weights(self.model, checkpoint.model, source=checkpoint.source)
        if self.average is not None and checkpoint.average is not None:
            load_weights(self.average.model, checkpoint.average, source=checkpoint.source)
        before = {parameter: (*state,) for parameter, state in self.optimizer.state.items()}
        with damage_of(checkpoint):
            self.optimizer.load_state_dict(current_state(checkpoint.optimizer, self.optimizer))
            check_optimizer(self.optimizer, before=before)
            if checkpoint.scaler:
                self.scaler.load_state_dict(checkpoint.scaler)
        self._statistics.read()

    def start_from(self, weights: State) -> None:
        """Start a new run from some of the network's tensors, by name, instead of from noise."""
        self.model.load_state_dict(self.model.state_dict() | weights)
        if self.average is not None:
            self.average.model.load_state_dict(self.model.state_dict())
        self._statistics.read()


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return Adam, or AdamW or Muon with weight decay on kernels only, not on scales and biases.

    All are fused: a step is a few launches, none of them makes the host wait, and ``found_inf`` skips it.
    """
    share = None if recipe.encoder_lr is None else recipe.encoder_lr / recipe.lr
    frozen = recipe.encoder_freeze > 0
    groups = parameter_groups(model, weight_decay=recipe.weight_decay, encoder_share=share, encoder_apart=frozen)
    if recipe.optimizer == "muon":
        return Muon(groups, lr=recipe.lr)
    for group in groups:
        del group["use_muon"]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, fused=True)
    if share is None and not frozen:  # one group, as in version 1's checkpoints
        return torch.optim.Adam(model.parameters(), lr=recipe.lr, fused=True)
    return torch.optim.Adam(groups, lr=recipe.lr, fused=True)
