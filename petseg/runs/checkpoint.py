"""Checkpoints: written atomically, checked for damage, read without executing any code from them.

The file is what ``torch.save`` writes: a zip archive whose entries have CRC-32s, see :mod:`petseg.host.tensor_archive`.
Tensors stand under their names in :class:`Checkpoint`, everything else in one JSON text.
"""

import contextlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from petseg.host.tensor_archive import check_finite, read_tensors
from petseg.nets.model_config import ModelConfig
from petseg.runs.history import check_history
from petseg.runs.recipe import Recipe, recipe_from
from shards.errors import PetsegError, UsageError, abridged, first_line, is_out_of_memory
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
    """The whole state of a run. The first five are values that JSON can hold, the others ``state_dict``s.

    ``best.pt`` holds what prediction needs, see :meth:`for_prediction`; every other checkpoint can be resumed from.
    """

    config: dict[str, Any]  # the recipe
    labels: Labels  # of the classes that the network predicts
    position: dict[str, Any]  # how far the run is: petseg.training.progress
    history: list[dict[str, Any]]  # the metrics of finished epochs, one object each
    loader: dict[str, Any] | None  # the training loader, or None between two epochs
    model: State
    average: State | None  # the averaged network, if there is one
    optimizer: State  # empty in best.pt
    scaler: State  # empty unless fp16
    source: Path | None = None  # the file that it was read from; not stored
    stamp: tuple[int, ...] | None = None  # which file that was, see file_stamp; not stored

    @property
    def weights(self) -> State:
        """The weights to predict with: the average if there is one."""
        return self.model if self.average is None else self.average

    @property
    def recipe(self) -> Recipe:
        """The recipe; ``CheckpointError`` if it is of another version, or impossible."""
        return read_recipe(self.config, source=self.source)

    @property
    def resumable(self) -> bool:
        """Whether training can continue from it: not from best.pt."""
        return bool(self.optimizer)

    def for_prediction(self) -> "Checkpoint":
        """Return what is needed to predict with, score, export or initialise: the weights, without training's state."""
        return msgspec.structs.replace(self, model=self.weights, average=None, optimizer={}, scaler={}, loader=None)


def file_stamp(path: Path) -> tuple[int, ...] | None:
    """Return what tells a file from one that has replaced it; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


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
    try:
        with atomic_file(path) as handle:
            handle.write(buffer.getbuffer())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint to the CPU and check it all; ``CheckpointError`` if missing, damaged or of another version.

    Its weights are finite, and all its tensors are ordinary ones; that they fit a network is checked by
    :func:`load_weights`.
    """
    if not path.is_file():
        raise CheckpointError(f"no such checkpoint: {path}")
    stamp = file_stamp(path)
    try:
        document = read_tensors(path)
    except Exception as error:  # damage raises any of a dozen types, from zlib to unpickling
        if is_out_of_memory(error):
            raise
        if isinstance(error, OSError) and error.errno is not None:
            raise CheckpointError(f"{path} cannot be read ({error.strerror})") from None
        raise CheckpointError(f"{path} is damaged or not a checkpoint of petseg ({first_line(error)})") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of petseg")
    version = document.get("version")
    if type(version) is not int or version not in _READ:
        raise CheckpointError(
            f"{path} has version {version if type(version) is int else 'of no number'}, this program reads versions up "
            f"to {VERSION}; use the program that wrote it"
        )
    try:
        plain = msgspec.json.decode(document["plain"], type=_Plain)
        labels = PETS if version == 1 else plain.labels
        if labels is None:
            raise ValueError("it has no labels")
        tensors = {name: document[name] for name in _TENSORS}
        for name, part in tensors.items():
            if not isinstance(part, dict) and not (name == "average" and part is None):
                raise ValueError(f"its part {name!r} is no dictionary")
        for weights in (tensors["model"], tensors["average"] or {}):
            _check_weights(weights)
        labels.check()
        recipe = read_recipe(plain.config, source=path)
        expect_classes(labels, recipe.model)
        check_history(plain.history, classes=len(labels))
    except (KeyError, TypeError, ValueError, RecursionError, UsageError, msgspec.DecodeError) as error:
        raise CheckpointError(f"{path} is damaged: {first_line(error)}") from None
    return Checkpoint(
        config=plain.config,
        labels=labels,
        position=plain.position,
        history=plain.history,
        loader=plain.loader,
        source=path,
        stamp=stamp,
        **tensors,
    )


class _Plain(msgspec.Struct, kw_only=True):
    """The JSON part of a checkpoint."""

    config: dict[str, Any]
    labels: Labels | None = None  # version 1 has none
    position: dict[str, Any]
    history: list[dict[str, Any]]
    loader: dict[str, Any] | None


def expect_classes(labels: Labels, model: ModelConfig) -> None:
    """Raise ``ValueError`` unless a network predicts as many classes as the labels beside it name."""
    if len(labels) != model.classes:
        raise ValueError(f"it names {len(labels)} classes, its network predicts {model.classes}")


def read_recipe(document: Any, *, source: Path | None) -> Recipe:
    """Return a recipe from its JSON values; ``CheckpointError``, naming ``source``, if fields are missing or wrong."""
    try:
        recipe = recipe_from(document)
        recipe.check()
    except (AttributeError, TypeError, RecursionError, msgspec.ValidationError, UsageError) as error:
        raise CheckpointError(
            f"{source or 'the checkpoint'} is damaged or of another version: its recipe is impossible "
            f"({first_line(error)})"
        ) from None
    return recipe


def load_weights(model: nn.Module, weights: Mapping[str, Any], *, source: Path | None) -> None:
    """Copy weights into a network; ``CheckpointError`` as :func:`expect_weights_of`."""
    expect_weights_of(model, weights, source=source)
    model.load_state_dict(dict(weights))


def expect_weights_of(model: nn.Module, weights: Mapping[str, Any], *, source: Path | None) -> None:
    """Raise ``CheckpointError`` unless weights are the tensors of a network: of equal names, shapes and types.

    The network may be on torch's device ``meta``, which takes no memory: what a checkpoint says that it is may be huge.
    """
    own = model.state_dict()
    where = source or "the checkpoint"
    if strange := [*(own.keys() - weights.keys()), *(weights.keys() - own.keys())]:
        raise CheckpointError(
            f"{where} is damaged: it does not belong to its network ({len(strange)} tensors are missing or too many, "
            f"such as {abridged(min(strange))})"
        )
    for name, tensor in own.items():
        other = weights[name]
        if other.shape != tensor.shape or other.dtype != tensor.dtype:
            raise CheckpointError(f"{where} is damaged: {name} is {kind_of(other)}, the network's is {kind_of(tensor)}")


@contextlib.contextmanager
def damage_of(checkpoint: Checkpoint) -> Iterator[None]:
    """Within the block, what a checkpoint's parts raise that do not fit becomes a ``CheckpointError``."""
    try:
        yield
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError, msgspec.MsgspecError) as error:
        if is_out_of_memory(error):
            raise
        where = checkpoint.source or "the checkpoint"
        raise CheckpointError(
            f"{where} is damaged: its state does not belong to its network ({first_line(error)})"
        ) from None


def check_optimizer(optimizer: torch.optim.Optimizer, *, before: Mapping[torch.Tensor, Iterable[str]]) -> None:
    """Raise ``ValueError`` unless an optimiser's state, which was loaded, is one that it can continue with.

    Each tensor has finite values; ``step`` is a number, the others are as large as their parameter and, from here on,
    lie in memory as it does: fused kernels see nothing but that memory. ``before`` has the names of what the optimiser
    had of each parameter before it was loaded: all of it is there.
    """
    for parameter, names in before.items():
        if missing := set(names) - optimizer.state[parameter].keys():
            raise ValueError(f"{min(missing)} of a parameter is missing")
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if not isinstance(value, torch.Tensor) or not value.is_floating_point():
                raise ValueError(f"{name} is no tensor of floating-point numbers")
            if value.shape != (torch.Size() if name == "step" else parameter.shape):
                raise ValueError(f"{name} is {kind_of(value)}, its parameter {kind_of(parameter)}")
            check_finite({name: value})
            if name in ("step", "exp_avg_sq") and bool((value < 0).any()):
                raise ValueError(f"{name} of a parameter has values below 0")
            if name.startswith("exp_avg"):
                state[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)


def kind_of(tensor: torch.Tensor) -> str:
    """Return a tensor's type and shape for people: ``float32 3x24x1x1``."""
    shape = "x".join(map(str, tensor.shape)) or "scalar"
    return f"{str(tensor.dtype).removeprefix('torch.')} {shape}"


def _check_weights(weights: State) -> None:
    if not all(isinstance(name, str) and isinstance(one, torch.Tensor) for name, one in weights.items()):
        raise ValueError("its weights are not tensors under their names")
    check_finite(weights)
