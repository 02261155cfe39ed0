"""All loggers of a run together. None of them can end a training: what fails is reported once and tried again later."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from petseg.loggers.json_lines import JsonLinesLogger
from petseg.loggers.metrics_logger import LoggedRun, MetricsLogger, chosen_loggers
from petseg.runs.history import History
from petseg.runs.recipe import LoggerName
from petseg.runs.run_config import RunConfig
from petseg.runs.run_folder import RunFolder
from shards.errors import first_line
from shards.store.addresses import without_secrets

_RETRY_SECONDS = 60.0  # a service that does not answer can hold up an epoch's end this often, not more


@dataclass
class _State:
    logger: MetricsLogger
    ready: bool = False
    reported: bool = False
    retry_at: float = 0.0


class RunLoggers:
    """Passes a run's epochs to each logger.

    A logger that raised gets no further epochs one by one: after a while it is opened anew with the whole history, and
    so catches up. ``note`` receives one line when it fails for the first time, and one when it works again.
    """

    def __init__(
        self,
        loggers: Sequence[MetricsLogger] = (),
        *,
        note: Callable[[str], None] = lambda text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._states = [_State(logger) for logger in loggers]
        self._note, self._clock = note, clock
        self._history: list[Mapping[str, Any]] = []

    def open(self, history: History) -> None:
        """Open every logger; ``history`` are the epochs finished before, when a run is resumed."""
        self._history = list(history)
        for state in self._states:
            self._open(state)

    def log(self, entry: Mapping[str, Any]) -> None:
        """Log a finished epoch."""
        self._history.append(entry)
        for state in self._states:
            if state.ready:
                self._try(state, lambda state=state: state.logger.log(entry))  # type: ignore[misc]
            elif self._clock() >= state.retry_at:
                self._open(state)

    def add_files(self, files: Sequence[Path]) -> None:
        """Give every logger the files of the finished run that exist."""
        present = [file for file in files if file.is_file()]
        for state in self._states:
            if state.ready:
                self._try(state, lambda state=state: state.logger.add_files(present))  # type: ignore[misc]

    def close(self, *, finished: bool) -> None:
        """The last call; a logger that failed is given one more chance if the run is finished."""
        for state in self._states:
            if finished and not state.ready:
                self._open(state)
            self._try(state, lambda state=state: state.logger.close(finished=finished))  # type: ignore[misc]

    def _open(self, state: _State) -> None:
        state.ready = True
        self._try(state, lambda: state.logger.open(self._history))
        if state.ready and state.reported:
            state.reported = False
            self._note(f"{state.logger.title} works again and has all epochs")

    def _try(self, state: _State, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - a service's client may raise anything; the training goes on
            state.ready = False
            state.retry_at = self._clock() + _RETRY_SECONDS
            if not state.reported:
                state.reported = True
                reason = without_secrets(first_line(error))
                self._note(f"{state.logger.title} failed ({reason}); the training goes on, and it is tried again later")


def make_loggers(config: RunConfig, folder: RunFolder, *, note: Callable[[str], None]) -> RunLoggers:
    """Return the loggers of a run: always metrics.jsonl, and those of its options; nothing is opened yet."""
    from petseg.loggers.mlflow_runs import MlflowLogger
    from petseg.loggers.tensorboard_events import TensorBoardLogger
    from petseg.loggers.wandb_runs import WandbLogger

    run = LoggedRun(folder=folder.path, classes=config.labels.names, parameters=run_parameters(config))
    named: dict[LoggerName, Callable[[LoggedRun], MetricsLogger]] = {
        "tensorboard": TensorBoardLogger,
        "wandb": WandbLogger,
        "mlflow": MlflowLogger,
    }
    names = chosen_loggers(config.runtime.logger, tensorboard=config.runtime.tensorboard)
    return RunLoggers([JsonLinesLogger(folder), *(named[name](run) for name in names)], note=note)


def run_parameters(config: RunConfig) -> dict[str, str]:
    """Return what decides a run's weights, one text each: recipe, shard set, precision, processes."""
    recipe = msgspec.to_builtins(config.recipe)
    model = recipe.pop("model")
    values = {f"model.{name}": value for name, value in model.items()} | recipe
    manifest = config.data.manifest
    values |= {"data.name": config.data.store.name, "data.fingerprint": manifest.fingerprint}
    values |= {"data.storage": manifest.storage, "data.classes": len(config.labels)}
    values |= {"precision": config.placement.precision, "world_size": config.world.size}
    return {name: _text(value) for name, value in values.items()}


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
