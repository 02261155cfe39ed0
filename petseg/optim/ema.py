"""The exponential moving average (EMA) of a network's weights, used for validation, checkpoints and prediction."""

import copy

import torch
from torch import nn


class WeightAverage:
    """``average = decay * average + (1 - decay) * weights`` after every step, with a warm-up.

    The factor of step t is ``min(decay, (1 + t) / (10 + t))``, as in TensorFlow's ExponentialMovingAverage, so that the
    random initialisation is soon forgotten. The running statistics of batch normalisation are averaged with the same
    factor, because they belong to the weights they were measured with; integer counters are copied. ``model`` is the
    averaged network, in evaluation mode, without gradients.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        """Start from the weights of ``model``, which must stay where it is: on its device, the same tensors."""
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        # parameters() and buffers() come in the same order in a copy.
        pairs = [
            *zip(self.model.parameters(), model.parameters(), strict=True),
            *zip(self.model.buffers(), model.buffers(), strict=True),
        ]
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, *, step: int) -> None:
        """Update the average with the weights after optimisation step ``step`` (0 for the first)."""
        factor = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(*_columns(self._averaged), 1.0 - factor)
        if self._counters:
            torch._foreach_copy_(*_columns(self._counters))


def _columns(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    return [first for first, _ in pairs], [second for _, second in pairs]


def default_decay(total_steps: int) -> float:
    """Return the decay that averages over about the last twentieth of a run, and at least over 10 steps."""
    return 1.0 - 1.0 / min(max(total_steps / 20, 10.0), 5000.0)
