"""Dropout whose masks belong to the samples of a global batch, however it is divided among ranks and micro-batches.

torch's dropout draws from one stream per process, so its masks depend on which process gets an image, and after which
others. Here a mask is a function of the step's key, the image's position in the global batch, and the channel.
"""

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.order.hashing import derive

_PURPOSE = 3  # keeps these random numbers apart from those of the order and of the augmentation
_BITS = 32
_LOWEST = (1 << _BITS) - 1
_GOLDEN = 0x9E3779B9  # 2**32 / golden ratio, odd
_MIX = 0x45D9F3B


def step_key(seed: int, step: int) -> int:
    """Return the key of a step's masks, 0..2**32 - 1."""
    return derive(seed, step, _PURPOSE) >> _BITS


class SampleDropout2d(nn.Module):
    """``Dropout2d``: in training, each channel of an image is zero with probability ``p``; the others are scaled up.

    ``samples`` has a random number in 0..2**32 - 1 for each image of the next batch, int64 (B,) on its device: see
    :func:`sample_numbers`. While it is None the masks are drawn from torch's generator.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.samples: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, H, W) to the same shape; in evaluation mode, or with ``p`` 0, to itself."""
        if not self.training or not self.p:
            return x
        if self.samples is None:
            return F.dropout2d(x, self.p)
        channels = torch.arange(x.shape[1], device=x.device) * _GOLDEN
        numbers: torch.Tensor = _mix((self.samples.unsqueeze(1) + channels) & _LOWEST)
        kept: torch.Tensor = (numbers >= round(self.p * 2**_BITS)).to(x.dtype) / (1 - self.p)
        return x * kept.unsqueeze(2).unsqueeze(3)

    def extra_repr(self) -> str:
        """Return what ``print`` shows."""
        return f"p={self.p}"


def sample_numbers(key: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Return a random number in 0..2**32 - 1 for each position in the global batch, int64 (B,).

    ``key`` is of :func:`step_key`, an int64 scalar on the same device.
    """
    return _mix((key + positions * _GOLDEN) & _LOWEST)


def _mix(x: torch.Tensor) -> torch.Tensor:
    """Return a hash of each number in 0..2**32 - 1: a bijection of them, int64, same shape.

    Thomas Mueller's mixing function (stackoverflow.com/a/12996028). No product reaches 2**63.
    """
    for _ in range(2):
        x = ((x ^ (x >> 16)) * _MIX) & _LOWEST
    return x ^ (x >> 16)
