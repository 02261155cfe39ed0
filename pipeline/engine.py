"""The interface of an engine, which turns the work of one batch into tensors."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.order.augmentation import NO_AUGMENTATION, Augmentation, Parameters
from shards.format.geometry import Fit, Scales, Size
from shards.format.layout import Rows, Storage

if TYPE_CHECKING:
    import torch

# Batches that exist besides the ``prefetch`` that are prepared in advance: the one that the caller still holds while
# the next is handed over, that one, and the one after it, started on the device or waiting to be handed over.
IN_FLIGHT = 3


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What an engine is built for."""

    storage: Storage
    stored_size: Size | None  # (height, width) of every stored image, None where each has its own
    size: Size  # (H, W) of the output
    fit: Fit  # how images of another aspect ratio are brought to it
    crop_scale: Scales | None = None  # of crops that replace it: output pixels per image pixel
    classes: int  # N
    onehot: bool  # one-hot masks instead of class indices
    augment: Augmentation | None  # which operations the parameters may ask for
    batch_size: int  # the maximum number of samples in a batch
    threads: int  # that work in this process, in all
    prefetch: int  # how many batches are prepared in advance

    @property
    def operations(self) -> Augmentation:
        """The augmentation, with every operation off if there is none."""
        return self.augment or NO_AUGMENTATION

    @property
    def crops(self) -> bool:
        """Whether boxes may be less than the whole image."""
        return self.operations.area is not None or self.fit == "cover" or self.crop_scale is not None

    @property
    def letterboxes(self) -> bool:
        """Whether places may be less than the whole output."""
        return self.fit == "contain" or self.crop_scale is not None

    @property
    def batch_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes in memory of a batch's images (B, H, W, 3) and masks (B, N, H, W) or (B, H, W), both uint8."""
        planes = (self.classes,) if self.onehot else ()
        return (self.batch_size, *self.size, 3), (self.batch_size, *planes, *self.size)

    @property
    def spare(self) -> int:
        """For how many batches memory is kept: all that can exist at a time; a dropped stream's serves the next one."""
        return self.prefetch + IN_FLIGHT


@dataclass(frozen=True, kw_only=True)
class BatchWork:
    """Everything that determines the tensors of one batch of B samples."""

    indices: npt.NDArray[np.int64]  # of the samples in the split, (B,)
    rows: Rows  # their records in the set's table, (B,)
    parameters: Parameters

    def __len__(self) -> int:
        return len(self.indices)

    def part(self, positions: slice) -> "BatchWork":
        """Return the work of some of the samples."""
        values = {name: value[positions] for name, value in vars(self.parameters).items()}
        parameters = replace(self.parameters, **values)
        return BatchWork(indices=self.indices[positions], rows=self.rows[positions], parameters=parameters)


def stored_sizes(rows: Rows, stored_size: Size | None) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the heights and widths of stored images in pixels according to the table, int64 (B,) each."""
    if stored_size is None:
        return rows["height"].astype(np.int64), rows["width"].astype(np.int64)
    height, width = stored_size
    return np.full(len(rows), height), np.full(len(rows), width)


class Engine(Protocol):
    """Turns work into tensors, in the same order.

    ``prepare`` runs in the loader's prefetch threads, in advance. ``start`` and ``finish`` run in the thread that
    iterates; ``start`` is called for the next batch before the training step on the present one, so that the device
    overlaps both. ``prepare`` and ``finish`` raise :class:`pipeline.io.damage.DamagedSamples` for samples that cannot
    be used; the engine stays usable.
    """

    name: str
    makers: int  # how many threads may be in ``prepare`` at a time, each with its own batch; 0: it returns at once
    has_device_part: bool  # whether ``start`` does anything
    batch_bytes: int | None  # of the memory that ``prepare`` puts a batch's tensors into; None: owned by DALI

    def prepare(self, work: BatchWork) -> Any:
        """Do the host's part; the result is passed to ``start``."""

    def start(self, prepared: Any) -> Any:
        """Start the device's part without waiting; the result is passed to ``finish``."""

    def finish(self, started: Any) -> "tuple[torch.Tensor, torch.Tensor]":
        """Return the image, uint8 (B, 3, H, W), and the mask, as :class:`pipeline.Batch` describes them."""

    def close(self) -> None:
        """Release threads and memory."""
