"""``metrics.jsonl`` in the run's folder: one JSON object per finished epoch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from petseg.runs.history import History
from petseg.runs.run_folder import METRICS, RunFolder


class JsonLinesLogger:
    """Rewrites the file at every epoch, so that it always agrees with the checkpoint."""

    title = METRICS

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._history: list[dict[str, Any]] = []

    def open(self, history: History) -> None:  # noqa: D102
        self._history = [dict(entry) for entry in history]
        if self._history:
            self._folder.write_metrics(self._history)

    def log(self, entry: Mapping[str, Any]) -> None:  # noqa: D102
        self._history.append(dict(entry))
        self._folder.write_metrics(self._history)

    def add_files(self, files: Sequence[Path]) -> None:
        """They are in the same folder already."""

    def close(self, *, finished: bool) -> None:
        """Nothing is open."""
