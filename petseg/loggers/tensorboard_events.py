"""A run's metrics as TensorBoard events, in its folder's ``events/``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from petseg.loggers.metrics_logger import LoggedRun
from petseg.runs.history import History

FOLDER = "events"
_SCORES = ("loss", "pixel_accuracy", "mean_iou", "mean_dice")


class TensorBoardLogger:
    """Writes one point per epoch and curve; rewritten from the history when a run is resumed.

    The names of the classes are in the curves' names.
    """

    title = "TensorBoard"

    def __init__(self, run: LoggedRun) -> None:
        self._folder, self._run = run.folder / FOLDER, run
        self._writer: Any = None

    def open(self, history: History) -> None:  # noqa: D102
        from torch.utils.tensorboard import SummaryWriter

        self.close(finished=False)
        # The events of a killed process may be ahead of the history.
        for old in self._folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = SummaryWriter(self._folder)
        if self._run.parameters:
            rows = "\n".join(f"| {name} | `{value}` |" for name, value in self._run.parameters.items())
            self._writer.add_text("parameters", f"| option | value |\n|---|---|\n{rows}")
        for entry in history:
            self.log(entry)

    def log(self, entry: Mapping[str, Any]) -> None:  # noqa: D102
        values = {name: entry[name] for name in ("learning_rate", "pictures_per_second", "wait_share")}
        for part in ("train", "val"):
            if scores := entry[part]:
                values |= {f"{name}/{part}": scores[name] for name in _SCORES}
                for kind in ("iou", "recall"):
                    classes = zip(self._run.classes, scores[kind], strict=True)
                    values |= {f"{kind}_{label}/{part}": value for label, value in classes}
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(name, value, entry["epoch"])
        self._writer.flush()

    def add_files(self, files: Sequence[Path]) -> None:
        """Events hold no files."""

    def close(self, *, finished: bool) -> None:  # noqa: D102
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()
