"""Scoring a network on every sample of a split, each exactly once, over any number of ranks."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from petseg.host.device import Placement
from petseg.host.distributed import World
from petseg.inference.metrics import Matrix, Scores, confusion, predicted_class, score
from petseg.inference.probabilities import class_probabilities, compute_logits
from pipeline import Batch, Loader

# The sum of the loss over a batch's valid samples, from its logits.
LossSum = Callable[[torch.Tensor, Batch], torch.Tensor]
# Counts the pixels of a batch: (batch, probabilities float32 (B, 3, S, S)) -> int64 (B, 3, 3).
Counter = Callable[[Batch, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Evaluation:
    """A network's results on a split.

    Attributes:
        matrices: one confusion matrix per sample, in split order: int64 (N, 3, 3), [true, predicted], pixels.
        loss: mean over the samples, or None if no loss was given.
    """

    matrices: Matrix
    loss: float | None

    @property
    def matrix(self) -> Matrix:
        """The confusion matrix of the whole split: int64 (3, 3)."""
        total: Matrix = self.matrices.sum(axis=0)
        return total

    @property
    def scores(self) -> Scores:
        """The scores of the whole split."""
        return score(self.matrix)

    @property
    def samples(self) -> int:
        """The number of samples."""
        return len(self.matrices)


def count_at_network_size(batch: Batch, probabilities: torch.Tensor) -> torch.Tensor:
    """Compare with the loader's masks: int64 (B, 3, 3)."""
    return confusion(batch.mask, predicted_class(probabilities))


def evaluate(
    model: nn.Module,  # in evaluation mode, on the loader's device
    loader: Loader,  # one epoch of it is read; masks are class indices
    *,
    placement: Placement,
    world: World | None = None,
    loss_sum: LossSum | None = None,
    flip_tta: bool = False,  # in the scores, not in the loss
    count: Counter = count_at_network_size,
    after_batch: Callable[[int], None] = lambda images: None,
) -> Evaluation:
    """Score a network; every rank of ``world`` must call this, and every rank gets the complete result.

    ``after_batch`` is called after each batch with its number of images, all ranks' included; it may raise to stop, if
    it does so on all ranks.
    """
    world = world or World()
    indices: list[torch.Tensor] = []
    matrices: list[torch.Tensor] = []
    loss = torch.zeros((), dtype=torch.float64, device=placement.device)
    for number, batch in enumerate(loader):
        if len(batch.index):
            logits = compute_logits(model, batch.image, placement=placement)
            if loss_sum is not None:
                loss += loss_sum(logits, batch)
            probabilities = logits.softmax(dim=1)
            if flip_tta:
                probabilities = class_probabilities(model, batch.image, placement=placement, flip_tta=True)
            indices.append(torch.where(batch.valid.cpu(), batch.index, -1))
            matrices.append(count(batch, probabilities))
        after_batch(loader.valid_in_batch(number))
    return Evaluation(
        matrices=_in_order(world, indices, matrices, samples=loader.samples),
        loss=None if loss_sum is None else float(world.sum(loss).item()) / loader.samples,
    )


def _in_order(world: World, indices: list[torch.Tensor], matrices: list[torch.Tensor], *, samples: int) -> Matrix:
    """Put all ranks' matrices in the order of the samples, without padding (index -1)."""
    index = torch.cat(indices).numpy() if indices else np.zeros(0, np.int64)
    counts = torch.cat(matrices).cpu().numpy() if matrices else np.zeros((0, 3, 3), np.int64)
    result: Matrix = np.zeros((samples, 3, 3), np.int64)
    for where, what in world.gather((index[index >= 0], counts[index >= 0])):
        result[where] = what
    return result
