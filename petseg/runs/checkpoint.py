"""Checkpoints: written atomically, checked for damage, read without executing any code from them.

The file is what ``torch.save`` writes: a zip archive whose entries have CRC-32s, read with ``weights_only=True``.
Tensors stand under their names in :class:`Checkpoint`, everything else in one JSON text.
"""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import torch

from shards.errors import PetsegError
from shards.format.builtin_labels import PETS
from shards.format.labels import Labels
from shards.store.atomic import atomic_file

FORMAT = "petseg-checkpoint"
VERSION = 2
_READ = (1, 2)  # version 1 knows the labels of pets only, and does not name them

State = dict[str, Any]


class CheckpointError(PetsegError):
    """A checkpoint is missing, damaged, or of another version."""


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """The whole state of a run. The first five are values that JSON can hold, the others ``state_dict``s."""

    config: dict[str, Any]  # the recipe
    labels: Labels  # of the classes that the network predicts
    position: dict[str, Any]  # how far the run is: petseg.training.progress
    history: list[dict[str, Any]]  # the metrics of finished epochs, one object each
    loader: dict[str, Any] | None  # the training loader, or None between two epochs
    model: State
    average: State | None  # the averaged network, if there is one
    optimizer: State
    scaler: State  # empty unless fp16

    @property
    def weights(self) -> State:
        """The weights to predict with: the average if there is one."""
        return self.model if self.average is None else self.average


_TENSORS = ("model", "average", "optimizer", "scaler")
_PLAIN = ("config", "labels", "position", "history", "loader")


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a temporary file, flush it, and rename it into place; after an ``OSError`` the previous file stays."""
    document: State = {name: getattr(checkpoint, name) for name in _TENSORS}
    plain = {name: msgspec.to_builtins(getattr(checkpoint, name)) for name in _PLAIN}
    document |= {"format": FORMAT, "version": VERSION, "plain": json.dumps(plain, allow_nan=False)}
    # Through memory: torch replaces the error of a failing write by its own, without the reason (such as a full disk).
    buffer = io.BytesIO()
    torch.save(document, buffer)
    with atomic_file(path) as handle:
        handle.write(buffer.getbuffer())


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint to the CPU and check it all; ``CheckpointError`` if missing, damaged or of another version."""
    if not path.is_file():
        raise CheckpointError(f"no such checkpoint: {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} does not match its checksum")
        document = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - damage raises any of a dozen types, from zlib to unpickling
        raise CheckpointError(f"{path} is damaged or not a checkpoint of petseg ({_first_line(error)})") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of petseg")
    version = document.get("version")
    if version not in _READ:
        raise CheckpointError(
            f"{path} has version {version!r}, this program reads versions up to {VERSION}; "
            "use the program that wrote it"
        )
    try:
        plain = json.loads(document["plain"])
        plain["labels"] = PETS if version == 1 else msgspec.convert(plain["labels"], Labels)
        return Checkpoint(**{name: document[name] for name in _TENSORS}, **{name: plain[name] for name in _PLAIN})
    except (KeyError, TypeError, ValueError, msgspec.ValidationError) as error:
        raise CheckpointError(f"{path} is damaged: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
