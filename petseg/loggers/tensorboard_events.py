"""A run's metrics as TensorBoard events, in its folder's ``events/``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from petseg.loggers.metrics_logger import LoggedRun, epoch_values
from petseg.runs.history import History

FOLDER = "events"


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
        for name, value in epoch_values(entry, self._run.classes).items():
            self._writer.add_scalar(name, value, entry["epoch"])
        self._writer.flush()

    def add_files(self, files: Sequence[Path]) -> None:
        """Events hold no files."""

    def close(self, *, finished: bool) -> None:  # noqa: D102
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()
