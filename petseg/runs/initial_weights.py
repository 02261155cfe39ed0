"""The weights that a new run starts from (``--init-from``): of a run, a checkpoint, or an export as safetensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from petseg.host.tensor_archive import check_finite, read_safetensors
from petseg.nets.factory import build_model
from petseg.nets.model_config import ModelConfig
from petseg.runs.checkpoint import CheckpointError, expect_classes, kind_of
from petseg.runs.run_folder import SAFETENSORS, load_best, trained_on
from shards.errors import PetsegError, UsageError, abridged, first_line, listed, option
from shards.format.labels import Labels
from shards.store.addresses import expect_paths
from shards.store.atomic import file_sha256

_NAMED = 3  # tensors in a message; the others are counted


@dataclass(frozen=True, kw_only=True)
class InitialWeights:
    """A trained network's (averaged) weights, its architecture and its classes, and the file that they come from."""

    file: Path  # absolute
    sha256: str  # of the file, hex
    model: ModelConfig
    labels: Labels
    weights: Mapping[str, torch.Tensor]
    trained_on: tuple[str, ...] = ()  # fingerprints of sets, where they are known


@dataclass(frozen=True, kw_only=True)
class FittingWeights:
    """What of some :class:`InitialWeights` a network takes.

    Attributes:
        weights: the tensors that it takes, by name.
        other_shape: tensors that both have, but of another shape or type, with what each is; a head of another number
            of classes is among them.
        absent: the network's tensors that the weights lack; they start from noise.
        unused: tensors that the network lacks.
        same_classes: whether its head predicts classes of the same names.
    """

    source: InitialWeights
    weights: dict[str, torch.Tensor]
    other_shape: dict[str, str]
    absent: tuple[str, ...]
    unused: tuple[str, ...]
    same_classes: bool

    @property
    def record(self) -> dict[str, Any]:
        """What config.json says of it."""
        return {
            "path": str(self.source.file),
            "sha256": self.source.sha256,
            "trained_on": list(self.source.trained_on),
            "taken": len(self.weights),
            "left_out": self.other_shape,
            "absent": list(self.absent),
            "unused": [*map(abridged, self.unused)],
        }

    @property
    def summary(self) -> str:
        """What the user should know, in one line."""
        total = len(self.weights) + len(self.other_shape) + len(self.absent)
        text = f"starting from {self.source.file}: {len(self.weights)} of the network's {total} tensors"
        if self.other_shape:
            text += f"; left out, because they have another shape: {listed(self.other_shape.values(), most=_NAMED)}"
        if self.absent:
            text += f"; not in it, so they start from noise: {listed(self.absent, most=_NAMED)}"
        if self.unused:
            text += f"; in it, but not in the network: {listed(self.unused, most=_NAMED)}"
        if not (self.same_classes or self.other_shape):
            text += "; its classes have other names, the head is taken all the same"
        return text


def read_initial_weights(source: str | Path) -> InitialWeights:
    """Read the weights of a run's folder (best.pt, else last.pt), a checkpoint, a .safetensors file or its folder.

    Raises:
        UsageError: it is none of these.
        CheckpointError: it is damaged.
        PetsegError: the package safetensors is not installed.
    """
    expect_paths(init_from=source)
    path = Path(source).absolute()
    if (path / SAFETENSORS).is_file():
        path = path / SAFETENSORS
    if path.is_file() and path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    if not path.exists():
        raise UsageError(f"{option('init_from', source)}: there is no such run, checkpoint or export")
    checkpoint = load_best(path)
    file = checkpoint.source or path
    return InitialWeights(
        file=file,
        sha256=file_sha256(file),
        model=checkpoint.recipe.model,
        labels=checkpoint.labels,
        weights=checkpoint.weights,
        trained_on=trained_on(file),
    )


def fit_weights(initial: InitialWeights, model: ModelConfig, labels: Labels) -> FittingWeights:
    """Find which tensors a network of this architecture takes; ``UsageError`` if it takes none that is trained."""
    with torch.device("meta"):  # names and shapes alone
        network = build_model(model)
    own = network.state_dict()
    given = initial.weights
    both = [name for name in own if name in given]
    fits = [name for name in both if own[name].shape == given[name].shape and own[name].dtype == given[name].dtype]
    found = FittingWeights(
        source=initial,
        weights={name: given[name] for name in fits},
        other_shape={
            name: f"{name} ({kind_of(given[name])}, here {kind_of(own[name])})" for name in both if name not in fits
        },
        absent=tuple(name for name in own if name not in given),
        unused=tuple(name for name in given if name not in own),
        same_classes=initial.labels.names == labels.names,
    )
    if not any(name in found.weights for name, _ in network.named_parameters()):
        raise UsageError(
            f"{option('init_from', initial.file)}: no weight in it fits this network; omit {option('model')} and the "
            "options of the network to take its architecture"
        )
    return found


def _read_safetensors(path: Path) -> InitialWeights:
    try:
        from safetensors import SafetensorError
    except ImportError:
        raise PetsegError(f"{path} needs safetensors; install with: pip install 'petseg[export]'") from None
    try:
        facts, weights = read_safetensors(path)
        check_finite(weights)
        model = msgspec.json.decode(facts["architecture"], type=ModelConfig)
        model.check()
        labels = msgspec.json.decode(facts["labels"], type=Labels)
        labels.check()
        expect_classes(labels, model)
    except KeyError as error:
        raise UsageError(
            f"{option('init_from', path)} was not written by petseg-export: its metadata lack {error.args[0]!r}"
        ) from None
    except (SafetensorError, OSError, RecursionError, ValueError, msgspec.DecodeError, UsageError) as error:
        raise CheckpointError(f"{path} is damaged ({first_line(error)})") from None
    return InitialWeights(file=path, sha256=file_sha256(path), model=model, labels=labels, weights=weights)
