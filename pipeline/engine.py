"""What an engine is: it turns the work of one batch into tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.augment import Parameters
from pipeline.reading import Bytes

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Work:
    """All that decides the tensors of one batch of B samples.

    Attributes:
        indices: which samples of the split, (B,).
        images: encoded pictures.
        trimaps: encoded trimaps.
        parameters: what is done to each.
    """

    indices: npt.NDArray[np.int64]
    images: list[Bytes]
    trimaps: list[Bytes]
    parameters: Parameters


class Engine(Protocol):
    """Work in, tensors out, in the same order.

    ``prepare`` runs in the loader's reading thread, ahead of time. ``start`` and ``finish`` run in the thread that
    iterates; ``start`` may be called for the next batch before the training step on the present one, so that a device
    has something to do meanwhile.
    """

    name: str
    overlaps: bool  # whether `start` returns before the work is done

    def prepare(self, work: Work) -> Any:
        """Do what can be done on the host; whatever it returns is handed to ``start``."""

    def start(self, prepared: Any) -> Any:
        """Begin the device's part without waiting; whatever it returns is handed to ``finish``."""

    def finish(self, started: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the image, uint8 (B, 3, S, S), and the mask, as :class:`pipeline.Batch` describes them."""

    def close(self) -> None:
        """Release threads and memory."""
