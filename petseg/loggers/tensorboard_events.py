"""A run's metrics as TensorBoard events, in its folder's ``events/``."""

import io
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from petseg.loggers.metrics_logger import LoggedRun, epoch_values
from petseg.runs.history import History
from shards.errors import UsageError, printable
from shards.store.atomic import naming, write_atomically

FOLDER = "events"


class TensorBoardLogger:
    """Writes one point per epoch and curve; rewritten from the history when a run is resumed.

    The names of the classes are in the curves' names. Records are written by the caller's thread: torch's SummaryWriter
    has a thread of its own, which prints a traceback where the disk is full.
    """

    title = "TensorBoard"

    def __init__(self, run: LoggedRun) -> None:
        self._folder, self._run = run.folder / FOLDER, run
        self._file = self._folder

    def open(self, history: History) -> None:  # noqa: D102
        from torch.utils.tensorboard.summary import text

        content: list[dict[str, Any]] = [{"file_version": "brain.Event:2"}]
        if self._run.parameters:
            rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in self._run.parameters.items())
            table = f"| option | value |\n|---|---|\n{rows}"
            content.append({"summary": text("parameters", table)})  # type: ignore[no-untyped-call]
        for entry in history:
            content += self._curves(entry)
        if self._folder.is_symlink():  # what is there, and would be removed below, may be of other runs
            raise UsageError(f"{self._folder} is a link; remove it: events are written into the run's own folder")
        with naming(self._folder):
            self._folder.mkdir(exist_ok=True)
        # The events of a killed process may be ahead of the history; where the disk is full, they are what there is.
        old = list(self._folder.glob("*tfevents*"))
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        write_atomically(self._folder / name, _records(content))
        self._file = self._folder / name
        for file in old:
            file.unlink()

    def log(self, entry: Mapping[str, Any]) -> None:  # noqa: D102
        with naming(self._file), self._file.open("ab") as file:
            file.write(_records(self._curves(entry)))

    def _curves(self, entry: Mapping[str, Any]) -> list[dict[str, Any]]:
        from torch.utils.tensorboard.summary import scalar

        values = epoch_values(entry, self._run.classes)
        summaries = (scalar(name, value) for name, value in values.items())  # type: ignore[no-untyped-call]
        return [{"summary": summary, "step": entry["epoch"]} for summary in summaries]

    def add_files(self, files: Sequence[Path]) -> None:
        """Events hold no files."""

    def close(self, *, finished: bool) -> None:
        """No file is open."""


def _cell(value: str) -> str:
    """Return a text for a Markdown table in which it means nothing but itself, as TensorBoard's reader takes it."""
    return "".join(f"&#{ord(sign)};" if sign in "\\`*_{}[]<>&|" else sign for sign in printable(value))


def _records(content: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the fields of events as TensorBoard's records."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    written = io.BytesIO()
    writer = RecordWriter(written)
    for fields in content:
        writer.write(Event(wall_time=time.time(), **fields).SerializeToString())
    return written.getvalue()
