"""``metrics.jsonl`` in the run's folder: one JSON object per finished epoch."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from petseg.loggers.metrics_logger import LoggedRun
from petseg.runs.history import History
from petseg.runs.run_folder import METRICS
from shards.store.atomic import write_atomically


class JsonLinesLogger:
    """Rewrites the file at every epoch, so that it always agrees with the checkpoint."""

    title = METRICS

    def __init__(self, run: LoggedRun) -> None:
        self._path = run.folder / METRICS
        self._history: list[Mapping[str, Any]] = []

    def open(self, history: History) -> None:  # noqa: D102
        self._history = list(history)
        if self._history:
            self._write()

    def log(self, entry: Mapping[str, Any]) -> None:  # noqa: D102
        self._history.append(entry)
        self._write()

    def add_files(self, files: Sequence[Path]) -> None:
        """They are in the same folder already."""

    def close(self, *, finished: bool) -> None:
        """Nothing is open."""

    def _write(self) -> None:
        write_atomically(self._path, "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in self._history))
