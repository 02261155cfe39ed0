"""The running statistics of batch normalisation, put back where a step is skipped."""

import torch
from torch import nn


class RunningStatistics:
    """The running means and variances of a network after its last good step.

    The forward pass changes them before anybody knows whether its loss and gradient are finite. ``model`` must stay
    where it is: on its device, the same tensors.
    """

    def __init__(self, model: nn.Module) -> None:
        norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        found = [statistic for norm in norms for statistic in (norm.running_mean, norm.running_var)]
        self._current = [statistic for statistic in found if statistic is not None]
        self._good = torch.cat(self._current) if self._current else torch.zeros(0)
        self._views = torch.split(self._good, [len(statistic) for statistic in self._current])

    @torch.no_grad()
    def read(self) -> None:
        """Take the present ones as good, such as those of a checkpoint that was loaded."""
        if self._current:
            torch._foreach_copy_(self._views, self._current)

    @torch.no_grad()
    def settle(self, good: torch.Tensor) -> None:
        """Keep the present ones where the step was ``good``, a bool scalar on the device; else restore the last."""
        if self._current:
            torch.where(good, torch.cat(self._current), self._good, out=self._good)
            torch._foreach_copy_(self._current, self._views)
