"""A run's metrics in MLflow: on the server of ``MLFLOW_TRACKING_URI``, or without one in a local database.

The experiment is that of ``MLFLOW_EXPERIMENT_NAME``, or ``petseg``.
"""

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from petseg.loggers.logged_ids import LoggedId, read_id, write_id
from petseg.loggers.metrics_logger import LoggedRun, epoch_values
from petseg.runs.history import History
from shards.errors import PetsegError
from shards.store.addresses import without_secrets

_SERVICE = "mlflow"
_DATABASE, _FILE = "sqlite:///", "mlflow.db"  # MLflow's default, in the working directory
_METRICS, _PARAMETERS = 1000, 100  # MLflow's limits of one request
_LONGEST_VALUE = 500  # of a parameter, in servers of version 1 and 2
_FORBIDDEN = re.compile(r"[^\w.\- :]")
# A server that does not answer shall not hold up the training: MLflow's own defaults are 120 s and 7 retries.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "15", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}


class MlflowLogger:
    """Logs one value per epoch and metric, whose step is the epoch; a resumed run continues its MLflow run."""

    title = "MLflow"

    def __init__(self, run: LoggedRun) -> None:
        self._run, self._classes = run, metric_names(run.classes)
        self._client: Any = None
        self._id = ""

    def open(self, history: History) -> None:  # noqa: D102
        for name, value in _PATIENCE.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        folder = self._run.folder
        kept = read_id(folder, _SERVICE)
        address = "" if kept is None or "MLFLOW_TRACKING_URI" in os.environ else _expect_local(kept.address)
        self._client = MlflowClient(address or None)
        self._id = self._existing(kept) or self._create()
        points = self._client.get_metric_history(self._id, "epoch")
        logged = max((int(point.step) for point in points), default=0)
        for entry in history:
            if entry["epoch"] > logged:
                self.log(entry)

    def log(self, entry: Mapping[str, Any]) -> None:  # noqa: D102
        from mlflow.entities import Metric

        # The epoch's number is the last one: where it is, all others are.
        values = {**epoch_values(entry, self._classes), "epoch": float(entry["epoch"])}
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, entry["epoch"]) for name, value in values.items()]
        for part in _parts(metrics, _METRICS):
            self._client.log_batch(self._id, metrics=part)

    def add_files(self, files: Sequence[Path]) -> None:  # noqa: D102
        for file in files:
            self._client.log_artifact(self._id, str(file))

    def close(self, *, finished: bool) -> None:  # noqa: D102
        if self._client is not None:
            client, self._client = self._client, None
            client.set_terminated(self._id, "FINISHED" if finished else "KILLED")

    def _existing(self, kept: LoggedId | None) -> str | None:
        """Return the id of the run that an earlier start has made, if this server has it."""
        from mlflow.exceptions import MlflowException

        if kept is None:
            return None
        try:
            run = self._client.get_run(kept.id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        if run.info.lifecycle_stage != "active":
            return None
        self._client.update_run(kept.id, status="RUNNING")
        return kept.id

    def _create(self) -> str:
        from mlflow.entities import Param

        client, folder = self._client, self._run.folder
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "petseg")
        experiment = client.get_experiment_by_name(name)
        number = client.create_experiment(name) if experiment is None else experiment.experiment_id
        run_id: str = client.create_run(number, run_name=folder.name).info.run_id
        # Parameters first: they cannot be changed, so a run without them would never get them.
        values = self._run.parameters.items()
        for part in _parts([Param(key, value[:_LONGEST_VALUE]) for key, value in values], _PARAMETERS):
            client.log_batch(run_id, params=part)
        write_id(folder, _SERVICE, LoggedId(id=run_id, address=_absolute(client.tracking_uri)))
        return run_id


def metric_names(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the names of classes for MLflow, which allows letters, digits, ``_``, ``-``, ``.``, ``:`` and spaces.

    Others are replaced by ``_``; a name that then stands for two classes, or for a folder, gets its class's index, and
    no name is that of two classes.
    """
    plain = [_FORBIDDEN.sub("_", name) for name in classes]

    def distinct(index: int) -> str:
        name, others = plain[index], plain[:index] + plain[index + 1 :]
        while not name.strip(".") or name in others:
            name = f"{name}_{index}"
        return name

    return tuple(map(distinct, range(len(plain))))


def _parts(items: Sequence[Any], length: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), length):
        yield items[start : start + length]


def _expect_local(address: str) -> str:
    """Return the address in a run's folder if it is MLflow's local database; raise ``PetsegError`` for another one.

    The folder may be anybody's: only the environment says to which server the metrics, and its password, are sent.
    """
    if address and not (address.startswith(_DATABASE) and Path(address.removeprefix(_DATABASE)).name == _FILE):
        shown = without_secrets(address)
        raise PetsegError(f"this run was logged to {shown}; to go on there, set MLFLOW_TRACKING_URI to that")
    return address if Path(address.removeprefix(_DATABASE)).is_file() else ""


def _absolute(address: str) -> str:
    """Return the address of a store so that it is the same one from every working directory, without a password."""
    if not address.startswith(_DATABASE):
        return without_secrets(address)
    return f"{_DATABASE}{Path(address.removeprefix(_DATABASE)).absolute()}"
