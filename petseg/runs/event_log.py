"""A run's metrics as TensorBoard events, in its folder's ``events/``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shards.errors import PetsegError

FOLDER = "events"
_SCORES = ("loss", "pixel_accuracy", "mean_iou", "mean_dice")


class EventLog:
    """Writes one point per epoch and curve; rewritten from the history when a run is resumed.

    ``classes`` are the names of the classes, which are in the curves' names.
    """

    def __init__(self, run: Path, history: list[dict[str, Any]], *, classes: Sequence[str]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise PetsegError(
                "--tensorboard needs TensorBoard; install with: pip install 'petseg[tensorboard]'"
            ) from None
        self._classes = tuple(classes)
        folder = run / FOLDER
        # The events of a killed process may be ahead of the history.
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer: Any = SummaryWriter(folder)
        for entry in history:
            self.add(entry)

    def add(self, entry: Mapping[str, Any]) -> None:
        """Write one line of metrics.jsonl."""
        values = {name: entry[name] for name in ("learning_rate", "pictures_per_second", "wait_share")}
        for part in ("train", "val"):
            if scores := entry[part]:
                values |= {f"{name}/{part}": scores[name] for name in _SCORES}
                values |= {f"iou_{label}/{part}": iou for label, iou in zip(self._classes, scores["iou"], strict=True)}
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(name, value, entry["epoch"])
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()
