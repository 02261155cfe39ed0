"""The exponential moving average of a network: what is validated, kept and used in its place.

Batch normalisation's running statistics belong to the weights they were gathered with, so they are averaged with
the same factor; counters are copied.
"""

from __future__ import annotations

import copy

import torch
from torch import nn


class WeightAverage:
    """``average = decay * average + (1 - decay) * weights`` after every step, with a warm-up.

    The factor of step t is ``min(decay, (1 + t) / (10 + t))`` (as in TensorFlow's ExponentialMovingAverage), so that
    the random start is soon forgotten.

    Attributes:
        model: the averaged network, in evaluation mode, without gradients.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, *, step: int) -> None:
        """Take in the weights after optimisation step ``step`` (0 for the first)."""
        factor = min(self.decay, (1 + step) / (10 + step))
        # parameters() and buffers() come in the same order in a copy.
        pairs = [*zip(self.model.parameters(), model.parameters(), strict=True)]
        for kept, fresh in zip(self.model.buffers(), model.buffers(), strict=True):
            if kept.is_floating_point():
                pairs.append((kept, fresh))  # type: ignore[arg-type]
            else:
                kept.copy_(fresh)
        averages = [kept.detach() for kept, _ in pairs]
        torch._foreach_lerp_(averages, [fresh.detach() for _, fresh in pairs], 1.0 - factor)


def default_decay(total_steps: int) -> float:
    """Return the decay that averages over about the last twentieth of a run, and at least over 10 steps."""
    return 1.0 - 1.0 / min(max(total_steps / 20, 10.0), 5000.0)
