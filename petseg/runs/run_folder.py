"""The folder of a run. No run overwrites another, and no two processes write one run at the same time.

config.json      options, versions, command and data
config.toml      the options as a configuration file
metrics.jsonl    one JSON object per finished epoch
last.pt          the newest checkpoint
best.pt          the checkpoint of the best epoch, by validation mean IoU
curves.png, gallery.png, report.html
events/, wandb/  with --logger tensorboard, wandb
loggers.json     which runs of Weights & Biases and MLflow this one is
"""

import contextlib
import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from petseg.runs.checkpoint import Checkpoint, CheckpointError, file_stamp, load_checkpoint
from petseg.runs.history import check_history
from shards.errors import PetsegError, UsageError, first_line, option, spelled
from shards.format.layout import RUN_CHECKPOINTS
from shards.format.readers.output_places import RUN_CONFIG, expect_outside, is_run_config
from shards.store.atomic import PARTIAL_PREFIX, write_atomically
from shards.store.byte_ranges import read_regular
from shards.store.owner_files import OwnedError, claim
from shards.store.refusals import lock_at_once

CONFIG = RUN_CONFIG
CONFIG_TOML = "config.toml"
METRICS = "metrics.jsonl"
LAST, BEST = RUN_CHECKPOINTS
CURVES = "curves.png"
GALLERY = "gallery.png"
REPORT = "report.html"
A_RUN = "a run is the folder that train() has returned, or a checkpoint in it"
SAFETENSORS = "model.safetensors"  # in the folder that petseg-export --hub writes
_LOCK, _OWNER = ".lock", ".owner"
# What a run without a checkpoint may hold.
_STARTED = {_LOCK, _OWNER, CONFIG, CONFIG_TOML, "events", "wandb", "loggers.json"}


class RunFolder:
    """A run's folder, locked by this process until :meth:`close`; see :func:`create_run` and :func:`reopen_run`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = os.open(path / _LOCK, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o644)
        try:
            outcome = lock_at_once(self._lock, folder=path)
            if outcome == "busy":
                raise UsageError(f"{path} is in use: another process is training this run")
            self._owner = claim(path / _OWNER, locked=outcome == "locked", beat=True)
        except BaseException as error:
            os.close(self._lock)
            if isinstance(error, OwnedError):
                raise UsageError(f"{path} is in use: {error.who} is training this run") from None
            raise
        for partial in path.glob(f"{PARTIAL_PREFIX}*"):  # of a process that was killed while writing
            partial.unlink(missing_ok=True)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def close(self) -> None:
        """Release the lock."""
        self._owner()
        os.close(self._lock)

    def expect_own(self) -> None:
        """Raise ``PetsegError`` if another folder has this one's path by now: nothing of it may be overwritten.

        An owner file that somebody has removed is no sign of that: then the lock is looked at.
        """
        there = self._owner.is_there()
        if there is None:
            with contextlib.suppress(OSError):
                there = os.path.samestat(os.fstat(self._lock), os.lstat(self / _LOCK))
        if there:
            return
        happened = "another run has its place now" if self.path.is_dir() else "nothing is there now"
        raise PetsegError(
            f"{self.path} was moved, removed or taken over during the training; {happened}, and this training has "
            "ended without writing there; what was moved is continued by its new name, from its last checkpoint"
        )

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        """Rewrite metrics.jsonl, so that it always agrees with the checkpoint."""
        self.expect_own()
        write_atomically(self / METRICS, "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in history))


def create_run(path: Path | None, *, model: str) -> RunFolder:
    """Create the folder of a new run: ``path``, or the next free ``runs/MODEL-NNN``; ``UsageError`` if not empty.

    A run that ended before its first checkpoint, such as at a full disk, holds nothing: it is started anew.
    """
    if path is None:
        return RunFolder(_next_free(Path("runs"), model))
    if path.exists() and not path.is_dir():
        raise UsageError(f"{option('run')} {path} is a file; name a folder")
    expect_outside(path, advice=f"choose another {option('run')}")
    if path.is_dir():
        _expect_unused(path)
    path.mkdir(parents=True, exist_ok=True)
    folder = RunFolder(path)
    try:
        _expect_unused(path)  # by another process, before the lock was taken
        for name in (CONFIG, CONFIG_TOML):
            (path / name).unlink(missing_ok=True)
    except BaseException:
        folder.close()
        raise
    return folder


def _expect_unused(path: Path) -> None:
    names = {entry.name for entry in path.iterdir() if not entry.name.startswith(PARTIAL_PREFIX)}
    if names & {LAST, BEST} or {CONFIG, METRICS} <= names:
        raise UsageError(
            f"{path} already contains a run; continue it with {option('resume', True)} (or "
            f"{option('resume', 'auto')}), or choose another {option('run')}"
        )
    begun = names <= _STARTED and is_run_config(path / CONFIG)
    if names - {_LOCK, _OWNER} and not begun:
        raise UsageError(f"{path} is not empty; choose another {option('run')}")


def reopen_run(path: Path, read: Checkpoint | None) -> RunFolder:
    """Open the folder of an existing run; ``UsageError`` if there is none.

    ``read``: its last.pt, as read before. ``UsageError`` if there is another one by now: a process that has ended since
    then has trained on, and its work must not be trained over.
    """
    if not (path / CONFIG).is_file():
        raise UsageError(f"{path} contains no run to resume (no {CONFIG}); start one without {option('resume')}")
    folder = RunFolder(path)
    if file_stamp(path / LAST) != (None if read is None else read.stamp):
        folder.close()
        raise UsageError(f"{path} was trained by another process while this one started; run the same command again")
    return folder


def read_config(path: Path) -> dict[str, Any]:
    """Read a run's config.json; ``CheckpointError`` if it is missing or damaged."""
    try:
        document = json.loads(read_regular(path / CONFIG))
    except FileNotFoundError:
        raise CheckpointError(f"{path} contains no run (no {CONFIG})") from None
    except OSError as error:
        raise CheckpointError(f"{path / CONFIG} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path / CONFIG} is damaged: it is not JSON") from None
    if not isinstance(document, dict):
        raise CheckpointError(f"{path / CONFIG} is damaged: it is not a JSON object")
    return document


def trained_on(checkpoint: Path) -> tuple[str, ...]:
    """Return the fingerprints of the sets that a checkpoint's run was trained on, and the weights that it starts from.

    Its own is the first; there is none where no run is around the checkpoint, or its config.json cannot be read.
    """
    found: list[object] = []
    with contextlib.suppress(CheckpointError):
        config = read_config(checkpoint.parent)
        data, initial = config.get("data"), config.get("initialised_from")
        if isinstance(data, dict):
            found.append(data.get("fingerprint"))
        if isinstance(initial, dict) and isinstance(before := initial.get("trained_on"), list):
            found += before
    return tuple(dict.fromkeys(each for each in found if isinstance(each, str)))


def read_metrics(path: Path, *, classes: int | None = None) -> list[dict[str, Any]]:
    """Read a run's metrics.jsonl, one entry per finished epoch; ``CheckpointError`` if it is missing or damaged.

    ``classes``: how many the network predicts, where that is known.
    """
    file = path / METRICS
    try:
        history = [msgspec.json.decode(line) for line in read_regular(file).splitlines()]
        check_history(history, classes=classes)
    except FileNotFoundError:
        raise CheckpointError(f"{path} contains no metrics (no {METRICS})") from None
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror})") from None
    except (RecursionError, UnicodeDecodeError, msgspec.DecodeError) as error:
        raise CheckpointError(
            f"{file} is damaged ({first_line(error)}); petseg-train --resume --run {shlex.quote(str(path))} restores "
            f"it from {LAST}"
        ) from None
    return history


class _NetworkFacts(msgspec.Struct):
    name: str
    encoder: str | None


class _RecipeFacts(msgspec.Struct):
    model: _NetworkFacts
    size: int | tuple[int, int]


class _ConfigFacts(msgspec.Struct):
    """What a page about several runs reads of config.json."""

    recipe: _RecipeFacts
    data: dict[str, Any] = {}
    versions: dict[str, Any] = {}


def read_comparable(path: Path, *, classes: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Read a run's metrics and config.json; ``CheckpointError`` too if one lacks what a page about several runs has."""
    history, config = read_metrics(path, classes=classes), read_config(path)
    try:
        msgspec.convert(config, _ConfigFacts)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"{path / CONFIG} is damaged: {first_line(error)}") from None
    return history, config


def find_checkpoint(run: Path) -> Path:
    """Return the checkpoint of a run to predict with: the best, or the last where there is no best; or ``run`` itself.

    ``CheckpointError`` if ``run`` is neither a run's folder with a checkpoint nor a file, or if it is an export.
    """
    if not run.is_file() and not run.is_dir():
        raise CheckpointError(f"no such run: {run}; name the folder that petseg-train made, or a checkpoint")
    for file in (run / BEST, run / LAST) if run.is_dir() else (run,):
        if file.is_file() and file.suffix.lower() not in (".onnx", ".safetensors"):
            return file
        if os.path.lexists(file) and not file.is_file():  # the other one's network would be taken for its network
            raise CheckpointError(
                f"{file} is not a file, or a link to nothing; put the checkpoint there, or remove that"
            )
    if not run.is_dir() or (run / SAFETENSORS).is_file():
        raise CheckpointError(
            f"{run} is an export, not a run or a checkpoint; name the run that it was made from, or use it with the "
            "program in its card"
        )
    if (run / METRICS).is_file():
        advice = "it has had one, since it has metrics; copy it there again, or start a new run"
    elif is_run_config(run / CONFIG):  # other programs, too, have a config.json
        advice = f"train it first, with: petseg-train --resume --run {shlex.quote(str(run))}"
    else:
        advice = "it is no run"
    raise CheckpointError(f"{run} holds no checkpoint ({BEST} or {LAST}); {advice}")


def load_best(run: Path) -> Checkpoint:
    """Read the checkpoint that :func:`find_checkpoint` finds; ``CheckpointError`` names another one that is intact."""
    file = find_checkpoint(run)
    try:
        return load_checkpoint(file)
    except CheckpointError as error:
        last = run / LAST
        if file == last or not last.is_file() or not run.is_dir():
            raise
        raise CheckpointError(f"{error}; the last epoch's weights are in {last}: name that file instead") from None


def _next_free(parent: Path, model: str) -> Path:
    number = 1
    while True:
        path = parent / f"{model}-{number:03d}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return path


def distinct_names(runs: Sequence[Path]) -> list[str]:
    """Return the names of folders, each with as many of its parents as it takes to tell them apart."""
    parts = [run.resolve().parts for run in runs]
    if len(set(parts)) < len(parts):
        raise UsageError(spelled("--compare names a run twice"))
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]).replace("//", "/") for part in parts]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("different folders have different paths")
