"""What an engine is: it turns the work of one batch into tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.order.augmentation import Augmentation, Parameters
from shards.format.layout import Rows, Storage

if TYPE_CHECKING:
    import torch

# Batches that exist besides the ``prefetch`` that are made ahead: the one that the caller still holds while the next
# is handed over, that one, and the one after it, begun on the device or waiting to be handed over.
IN_HAND = 3


@dataclass(frozen=True, kw_only=True)
class Options:
    """What an engine is built for.

    Attributes:
        storage: how samples are stored.
        stored_size: side of a stored picture in pixels, None where each has its own.
        size: side of the output in pixels.
        onehot: masks as one-hot planes instead of a class index.
        augment: which kinds of change the parameters may ask for; None: none.
    """

    storage: Storage
    stored_size: int | None
    size: int
    onehot: bool
    augment: Augmentation | None

    @property
    def crop(self) -> bool:
        """Whether boxes may differ from the whole picture."""
        return self.augment is not None and self.augment.area is not None

    @property
    def flip(self) -> bool:
        """Whether samples may be mirrored."""
        return self.augment is not None and self.augment.flip > 0

    @property
    def colour(self) -> bool:
        """Whether colours may change."""
        return self.augment is not None and self.augment.colour


@dataclass(frozen=True, kw_only=True)
class Work:
    """All that decides the tensors of one batch of B samples.

    Attributes:
        indices: which samples of the split, int64 (B,).
        rows: their records in the set's table, (B,).
        parameters: what is done to each.
    """

    indices: npt.NDArray[np.int64]
    rows: Rows
    parameters: Parameters

    def __len__(self) -> int:
        return len(self.indices)

    def part(self, places: slice) -> Work:
        """Return the work of some of the samples."""
        parameters = replace(self.parameters, **{name: value[places] for name, value in vars(self.parameters).items()})
        return Work(indices=self.indices[places], rows=self.rows[places], parameters=parameters)


def stored_sizes(rows: Rows, stored_size: int | None) -> tuple[list[int], list[int]]:
    """Return the heights and widths of stored pictures in pixels, as the table has them."""
    if stored_size is not None:
        return [stored_size] * len(rows), [stored_size] * len(rows)
    return rows["height"].tolist(), rows["width"].tolist()


def size_problem(pixels: npt.NDArray[np.uint8], height: int, width: int) -> str | None:
    """Compare what was decoded, (H, W, ...), with the size in the table; None if they are the same."""
    if pixels.shape[:2] == (height, width):
        return None
    return f"{pixels.shape[1]} x {pixels.shape[0]} pixels, the table says {width} x {height}"


class Engine(Protocol):
    """Work in, tensors out, in the same order.

    ``prepare`` runs in the loader's reading threads, ahead of time. ``start`` and ``finish`` run in the thread that
    iterates; ``start`` is called for the next batch before the training step on the present one, so that a device
    has something to do meanwhile. ``prepare`` and ``finish`` raise :class:`pipeline.damage.DamagedSamples` for samples
    that cannot be used; the engine can then be used again.
    """

    name: str
    makers: int  # how many threads may be in ``prepare`` at a time, each with a batch of its own; 0: it only orders
    has_device_part: bool  # whether ``start`` begins anything
    batch_bytes: int | None  # of the memory that ``prepare`` puts a batch's tensors into; None: a device's or DALI's

    def prepare(self, work: Work) -> Any:
        """Do what can be done on the host; whatever it returns is handed to ``start``."""

    def start(self, prepared: Any) -> Any:
        """Begin the device's part without waiting; whatever it returns is handed to ``finish``."""

    def finish(self, started: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the image, uint8 (B, 3, S, S), and the mask, as :class:`pipeline.Batch` describes them."""

    def close(self) -> None:
        """Release threads and memory."""
