"""What a loader yields."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One rank's slice of a global batch: B samples of S x S pixels.

    B is the same for all batches of a rank; it is 0 where an evaluation has more ranks than samples in a global batch.

    Attributes:
        image: uint8 (B, 3, S, S), channels_last, RGB, 0..255, on the loader's device.
        mask: uint8 on the same device: one-hot (B, 3, S, S), contiguous, channels animal, background, border;
            or the class index (B, S, S), 0, 1, 2 in the same order.
        index: int64 (B,) on the CPU: which sample of the split.
        valid: bool (B,) on the image's device: False for padding, which repeats samples and must not be counted.
        epoch: the epoch that the batch belongs to, counted from 0.
        number: which global batch of the epoch, counted from 0.
    """

    image: "torch.Tensor"
    mask: "torch.Tensor"
    index: "torch.Tensor"
    valid: "torch.Tensor"
    epoch: int
    number: int

    def __len__(self) -> int:
        return len(self.index)
