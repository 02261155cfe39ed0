"""Trying weights out before they are kept."""

from __future__ import annotations

import torch
from torch.func import functional_call

from petseg.training.step import LabelledBatch, Learner


@torch.no_grad()
def trial_loss(learner: Learner, batch: LabelledBatch, *, global_valid: int) -> torch.Tensor:
    """Return the training loss of a batch with the present weights, without leaving a trace in the network.

    Computed as a step would (batch statistics, dropout, precision), so that it is what the next step would meet. All
    ranks must call it together, since batch statistics may be those of all.

    Args:
        learner: holds the network.
        batch: this rank's slice of a global batch.
        global_valid: number of valid pictures in the global batch.

    Returns:
        This rank's share of the loss: float32 scalar.
    """
    model = learner.model.train()
    running = {name: buffer.clone() for name, buffer in model.named_buffers()}  # a forward pass in training moves them
    with learner.placement.autocast():
        logits = functional_call(model, running, (batch.image,))
    return learner.validation_loss(logits, batch) / global_valid
