"""What a logger is: the protocol, the names of the values that it gets, and which loggers there are."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any, Protocol

from petseg.runs.history import History
from petseg.runs.recipe import LOGGER_NAMES, LoggerName
from shards.errors import PetsegError, option

_SCORES = ("loss", "mean_iou", "mean_dice", "pixel_accuracy")
_OF_CLASSES = ("iou", "dice", "recall")


@dataclass(frozen=True, kw_only=True)
class LoggedRun:
    """What a logger is told of a run: its folder, the names of the classes, and its configuration, one text each.

    ``parameters`` are the recipe's fields and what else decides the weights; nested names have a dot: ``model.widths``.
    """

    folder: Path
    classes: tuple[str, ...]
    parameters: Mapping[str, str]


class MetricsLogger(Protocol):
    """Receives a run's epochs, on rank 0 alone.

    Any method may raise: :class:`petseg.loggers.run_loggers.RunLoggers` reports it and calls :meth:`open` again later.
    """

    title: str  # for messages

    def open(self, history: History) -> None:
        """Open or reopen, and write what is missing of the epochs finished so far, each once: ``history``."""

    def log(self, entry: Mapping[str, Any]) -> None:
        """Write a finished epoch, a line of metrics.jsonl."""

    def add_files(self, files: Sequence[Path]) -> None:
        """Keep files of the finished run, such as its report."""

    def close(self, *, finished: bool) -> None:
        """Write what is waiting and release everything; ``finished`` is False if the run was interrupted."""


def epoch_values(entry: Mapping[str, Any], classes: Sequence[str]) -> dict[str, float]:
    """Return the numbers of a line of metrics.jsonl by name, such as ``val/mean_iou`` and ``val/iou/cat``.

    A score that does not exist, such as the IoU of a class without pixels, has no entry.
    """
    values = {name: entry[name] for name in ("learning_rate", "wait_share")}
    values |= {"images_per_second": entry["pictures_per_second"], "optimizer_step": entry["step"]}
    for part in ("train", "val"):
        if scores := entry[part]:
            values |= {f"{part}/{name}": scores[name] for name in _SCORES}
            for kind in _OF_CLASSES:
                values |= {f"{part}/{kind}/{name}": v for name, v in zip(classes, scores[kind], strict=True)}
    return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}


def chosen_loggers(names: Sequence[LoggerName], *, tensorboard: bool) -> tuple[LoggerName, ...]:
    """Return the loggers of ``--logger`` and of ``--tensorboard``, each once, in a fixed order."""
    return tuple(name for name in LOGGER_NAMES if name in names or (tensorboard and name == "tensorboard"))


def expect_packages(names: Sequence[LoggerName]) -> None:
    """Raise ``PetsegError`` if the package of a logger is missing; imports none of them."""
    for name in names:
        if util.find_spec(name) is None:
            raise PetsegError(f"{option('logger', name)} needs a package; install with: pip install 'petseg[{name}]'")
