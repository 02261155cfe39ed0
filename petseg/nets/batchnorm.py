"""Batch normalisation over the global batch, on CPUs.

torch's own SyncBatchNorm runs on GPUs only. This one gives the same on a CPU, so that training on several ranks
equals training on one, and can be tested without a GPU.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import distributed as dist
from torch import nn


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """A BatchNorm2d whose training statistics are those of all ranks' pictures together."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise (B, C, H, W); in evaluation exactly as BatchNorm2d does."""
        if not self.training:
            return super().forward(x)
        count = x.numel() // x.shape[1] * dist.get_world_size()  # ranks' slices are equal in size
        x = x.float()
        mean = _total(x.sum(dim=(0, 2, 3))) / count
        centred = x - mean.view(1, -1, 1, 1)
        variance = _total(centred.square().sum(dim=(0, 2, 3))) / count
        self._follow(mean.detach(), variance.detach() * count / max(count - 1, 1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return torch.addcmul(self.bias.view(1, -1, 1, 1), centred, scale.view(1, -1, 1, 1))

    @torch.no_grad()
    def _follow(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        momentum = 0.1 if self.momentum is None else self.momentum
        cast(torch.Tensor, self.running_mean).lerp_(mean, momentum)
        cast(torch.Tensor, self.running_var).lerp_(variance, momentum)
        cast(torch.Tensor, self.num_batches_tracked).add_(1)


class _Total(torch.autograd.Function):
    """The sum over the ranks. Each rank's part goes into every rank's sum, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(context: object, part: torch.Tensor) -> torch.Tensor:
        total = part.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: object, *gradients: torch.Tensor) -> torch.Tensor:
        return _Total.forward(context, gradients[0])


def _total(part: torch.Tensor) -> torch.Tensor:
    return cast(torch.Tensor, _Total.apply(part))


def synchronise_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Make every BatchNorm2d of a network count the pictures of all ranks; names and weights stay."""
    if device.type == "cuda":
        return cast(nn.Module, nn.SyncBatchNorm.convert_sync_batchnorm(model))  # type: ignore[no-untyped-call]
    for name, child in model.named_children():
        if type(child) is nn.BatchNorm2d:
            twin = GlobalBatchNorm2d(child.num_features, eps=child.eps, momentum=child.momentum)
            twin.load_state_dict(child.state_dict())
            setattr(model, name, twin.to(device))
        else:
            synchronise_batch_norm(child, device)
    return model
