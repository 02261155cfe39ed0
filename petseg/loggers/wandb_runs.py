"""A run's metrics in Weights & Biases; without a network with ``WANDB_MODE=offline``.

Project, entity and mode are those of wandb's own environment variables; the project is ``petseg`` without one. Its
files are in the run's folder, under ``wandb/``.
"""

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from petseg.loggers.logged_ids import LoggedId, read_id, write_id
from petseg.loggers.metrics_logger import LoggedRun, epoch_values
from petseg.runs.history import History

_SERVICE = "wandb"
_START_SECONDS, _END_SECONDS = 30.0, 120.0  # to reach the service; to send what is waiting at the end


class WandbLogger:
    """Logs one row per epoch, whose step is the epoch; a resumed run continues the one of the same name and id."""

    title = "Weights & Biases"

    def __init__(self, run: LoggedRun) -> None:
        self._run = run
        self._service_run: Any = None
        self._kept = LoggedId(id="")

    def open(self, history: History) -> None:  # noqa: D102
        import wandb

        self.close(finished=False)
        folder = self._run.folder
        self._kept = read_id(folder, _SERVICE) or LoggedId(id=secrets.token_hex(4))
        write_id(folder, _SERVICE, self._kept)
        service: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "petseg"),
            id=self._kept.id,
            name=os.environ.get("WANDB_NAME", folder.name),
            dir=str(folder),
            config=dict(self._run.parameters),
            resume="allow",
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, init_timeout=_START_SECONDS, finish_timeout=_END_SECONDS
            ),
        )
        self._service_run = service
        service.define_metric("epoch")
        service.define_metric("*", step_metric="epoch")
        # The service knows best what it has; offline, only the run's folder does.
        logged = self._kept.epoch if service.offline or not service.resumed else service.starting_step - 1
        for entry in history:
            if entry["epoch"] > logged:
                self.log(entry)

    def log(self, entry: Mapping[str, Any]) -> None:  # noqa: D102
        values = epoch_values(entry, self._run.classes)
        self._open_run().log({"epoch": entry["epoch"], **values}, step=entry["epoch"])
        self._kept = LoggedId(id=self._kept.id, epoch=entry["epoch"])
        write_id(self._run.folder, _SERVICE, self._kept)

    def add_files(self, files: Sequence[Path]) -> None:  # noqa: D102
        for file in files:
            self._open_run().save(str(file), base_path=str(file.parent), policy="now")

    def close(self, *, finished: bool) -> None:  # noqa: D102
        if self._service_run is not None:
            service, self._service_run = self._service_run, None
            service.finish(exit_code=0 if finished else 1)

    def _open_run(self) -> Any:
        if self._service_run is None:
            raise RuntimeError("no run is open")
        return self._service_run
