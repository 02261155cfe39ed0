"""Batch normalisation over the global batch, also on CPUs, where torch's SyncBatchNorm does not run.

With it, training on several ranks equals training on one, and can be tested without a GPU.
"""

from typing import cast

import torch
from torch import distributed as dist
from torch import nn


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """A BatchNorm2d whose training statistics cover the images of all ranks."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise (B, C, H, W); in evaluation mode exactly as BatchNorm2d does."""
        if not self.training:
            return super().forward(x)
        count = x.numel() // x.shape[1] * dist.get_world_size()  # ranks' slices are equal in size
        x = x.float()
        mean = _all_reduce_sum(x.sum(dim=(0, 2, 3))) / count
        centred = x - mean.view(1, -1, 1, 1)
        variance = _all_reduce_sum(centred.square().sum(dim=(0, 2, 3))) / count
        self._update_running_statistics(mean.detach(), variance.detach() * count / max(count - 1, 1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return torch.addcmul(self.bias.view(1, -1, 1, 1), centred, scale.view(1, -1, 1, 1))

    @torch.no_grad()
    def _update_running_statistics(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        momentum = 0.1 if self.momentum is None else self.momentum
        cast(torch.Tensor, self.running_mean).lerp_(mean, momentum)
        cast(torch.Tensor, self.running_var).lerp_(variance, momentum)
        cast(torch.Tensor, self.num_batches_tracked).add_(1)


class GlobalBatchNormAct2d(GlobalBatchNorm2d):
    """The same for timm's BatchNormAct2d, which applies an activation, too."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, eps=norm.eps, momentum=norm.momentum)
        self.drop, self.act = cast(nn.Module, norm.drop), cast(nn.Module, norm.act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise (B, C, H, W) and apply the activation."""
        return cast(torch.Tensor, self.act(self.drop(super().forward(x))))


class _AllReduceSum(torch.autograd.Function):
    """The sum over all ranks. Each rank's input enters every rank's sum, so its gradient is the sum of theirs.

    torch.distributed.nn.functional.all_reduce does the same, but is deprecated.
    """

    @staticmethod
    def forward(context: object, part: torch.Tensor) -> torch.Tensor:
        total = part.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: object, *gradients: torch.Tensor) -> torch.Tensor:
        return _AllReduceSum.forward(context, gradients[0])


def _all_reduce_sum(part: torch.Tensor) -> torch.Tensor:
    return cast(torch.Tensor, _AllReduceSum.apply(part))


def synchronise_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Replace every BatchNorm2d of a network by one that covers all ranks; parameter names and values stay."""
    if device.type == "cuda":
        if any(_has_activation(module) for module in model.modules()):  # torch would lose the activations
            from timm.layers import convert_sync_batchnorm

            return cast(nn.Module, convert_sync_batchnorm(model))
        return cast(nn.Module, nn.SyncBatchNorm.convert_sync_batchnorm(model))  # type: ignore[no-untyped-call]
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm2d) and (type(child) is nn.BatchNorm2d or _has_activation(child)):
            replacement = (
                GlobalBatchNormAct2d(child)
                if _has_activation(child)
                else GlobalBatchNorm2d(child.num_features, eps=child.eps, momentum=child.momentum)
            )
            replacement.load_state_dict(child.state_dict())
            setattr(model, name, replacement.to(device))
        else:
            synchronise_batch_norm(child, device)
    return model


def _has_activation(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm2d) and hasattr(module, "act") and hasattr(module, "drop")
