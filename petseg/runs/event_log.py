"""A run's metrics as TensorBoard events, in its folder's ``events/``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shards.errors import PetsegError
from shards.format.layout import CLASSES

FOLDER = "events"


class EventLog:
    """Writes one point per epoch and curve; rewritten from the history when a run is resumed."""

    def __init__(self, run: Path, history: list[dict[str, Any]]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise PetsegError(
                "--tensorboard needs TensorBoard; install with: pip install 'petseg[tensorboard]'"
            ) from None
        folder = run / FOLDER
        # The events of a killed process may be ahead of the history.
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer: Any = SummaryWriter(folder)
        for entry in history:
            self.add(entry)

    def add(self, entry: Mapping[str, Any]) -> None:
        """Write one line of metrics.jsonl."""
        epoch = entry["epoch"]
        for part in ("train", "val"):
            scores = entry[part]
            if scores is None:
                continue
            for name in ("loss", "pixel_accuracy", "mean_iou", "mean_dice"):
                self._writer.add_scalar(f"{name}/{part}", scores[name], epoch)
            for label, value in zip(CLASSES, scores["iou"], strict=True):
                if value is not None:
                    self._writer.add_scalar(f"iou_{label}/{part}", value, epoch)
        for name in ("learning_rate", "pictures_per_second", "wait_share"):
            self._writer.add_scalar(name, entry[name], epoch)
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()
