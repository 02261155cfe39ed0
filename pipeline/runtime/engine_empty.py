"""The engine of a rank whose slice is empty: it keeps step with the others, with batches of no samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.engine import Options, Work

if TYPE_CHECKING:
    import torch


class EmptyEngine:
    """Makes tensors of the right shapes with B = 0.

    With more ranks than samples in a global batch some ranks get nothing; they still take part in what all ranks do
    together after each batch.
    """

    makers = 1
    has_device_part = False
    batch_bytes: int | None = 0

    def __init__(self, options: Options, *, name: str, device: torch.device) -> None:
        self.name = name
        self._options = options
        self._device = device

    def prepare(self, work: Work) -> Any:
        """Nothing is there to be done."""

    def start(self, prepared: Any) -> Any:
        """Nothing is there to be done."""

    def finish(self, started: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return an image, uint8 (0, 3, S, S), and a mask, uint8 (0, 3, S, S) or (0, S, S)."""
        import torch

        size = self._options.size
        shape = (0, 3, size, size) if self._options.onehot else (0, size, size)
        image = torch.empty((0, size, size, 3), dtype=torch.uint8, device=self._device).permute(0, 3, 1, 2)
        return image, torch.empty(shape, dtype=torch.uint8, device=self._device)

    def close(self) -> None:
        """Nothing is held."""
