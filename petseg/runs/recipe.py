"""What a run is to do: the recipe, which decides the weights, and how it is run, which does not.

Defaults differ by model; :func:`default_recipe` states them with their reasons.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from petseg.nets.model_config import MAX_SIZE, MIN_SIZE, ModelConfig, Name, default_model_config
from petseg.optim.learning_rate import Schedule
from shards.errors import UsageError

Optimizer = Literal["adam", "adamw", "muon"]
ClassWeights = Literal["none", "balanced"]
Augment = Literal["none", "train", "strong"]
PrecisionName = Literal["auto", "fp32", "bf16", "fp16"]
Engine = Literal["auto", "dali", "torch"]


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that decides the trained weights, beside the data. A run is resumed with its own recipe only.

    Attributes:
        model: the architecture.
        size: side of the pictures given to the network, pixels.
        progressive: train at half the size first, then at three quarters, then at ``size`` (see petseg.training.image_sizes).
        epochs: how often every training picture is seen.
        batch_size: pictures in an optimisation step, all ranks together.
        accumulate: parts that a batch is computed in, one after another, to save memory.
        optimizer: ``adam``, or with decay on convolution weights only ``adamw`` or ``muon`` (see petseg.optim.muon).
        lr: peak learning rate.
        schedule: how the learning rate moves; see petseg.optim.learning_rate.
        warmup: share of the steps in which ``onecycle`` rises.
        weight_decay: of ``adamw`` and ``muon``.
        dice_weight: weight of the Dice loss beside the cross-entropy's 1.
        class_weights: ``balanced`` weighs classes in the cross-entropy by how rare they are (from the manifest).
        label_smoothing: share of each pixel's truth spread over all classes.
        augment: ``train`` for random crops, flips and colour, ``strong`` for more of each; ``none``.
        ema_decay: decay of the weight average; 0 for none; None for one that fits the number of steps.
        clip_norm: longest gradient, as a 2-norm; longer ones are scaled down; 0 for no limit.
        validate_every: validate after every so many epochs, and after the last; the best epoch is one of those.
        patience: stop after so many epochs without a better validation score; 0 for never.
        seed: of weights, order, augmentation and dropout.
        precision: see petseg.host.device.
    """

    model: ModelConfig
    size: int
    progressive: bool = False
    epochs: int
    batch_size: int
    accumulate: int = 1
    optimizer: Optimizer
    lr: float
    schedule: Schedule
    warmup: float = 0.1
    weight_decay: float = 0.0
    dice_weight: float = 0.0
    class_weights: ClassWeights = "none"
    label_smoothing: float = 0.0
    augment: Augment = "none"
    ema_decay: float | None = 0.0
    clip_norm: float = 0.0
    validate_every: int = 1
    patience: int = 0
    seed: int = 0
    precision: PrecisionName = "auto"

    def validates(self, epoch: int) -> bool:
        """Whether an epoch (from 0) ends with a validation."""
        return (epoch + 1) % self.validate_every == 0 or epoch + 1 == self.epochs

    def check(self) -> None:
        """Raise ``UsageError`` for a value out of its range, naming the option."""
        self.model.check()
        _within("--size", self.size, MIN_SIZE, MAX_SIZE)
        _within("--epochs", self.epochs, 1, 1_000_000)
        _within("--batch-size", self.batch_size, 1, 65536)
        _within("--accumulate", self.accumulate, 1, self.batch_size)
        _within("--warmup", self.warmup, 0, 1)
        _within("--weight-decay", self.weight_decay, 0, 10)
        _within("--dice-weight", self.dice_weight, 0, 1000)
        _within("--label-smoothing", self.label_smoothing, 0, 0.99)
        _within("--clip-norm", self.clip_norm, 0, float("inf"))
        _within("--validate-every", self.validate_every, 1, 1_000_000)
        _within("--patience", self.patience, 0, 1_000_000)
        _within("--seed", self.seed, 0, 2**63 - 1)
        if not self.lr > 0:
            raise UsageError(f"--lr {self.lr:g}: give a number above 0")
        if self.ema_decay is not None:
            _within("--ema-decay", self.ema_decay, 0, 0.999999)
        if self.weight_decay and self.optimizer == "adam":
            raise UsageError("--weight-decay is for --optimizer adamw and muon")


class Running(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a run is carried out. May change when it is resumed; the weights are the same up to rounding.

    Attributes:
        shards: absolute path of the shard set's folder (its content may not change, its place may).
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: torch's CPU threads; None for all cores.
        prefetch: batches that the loader makes ahead.
        engine: the loader's engine.
        compile: compile the network with ``torch.compile``.
        checkpoint_minutes: write last.pt at least so often within an epoch; 0 for the end of epochs only.
        checkpoint_steps: write last.pt every so many steps as well; 0 for not.
        tensorboard: write TensorBoard events into the run folder.
    """

    shards: str
    device: str = "auto"
    threads: int | None = None
    prefetch: int = 2
    engine: Engine = "auto"
    compile: bool = False
    checkpoint_minutes: float = 5.0
    checkpoint_steps: int = 0
    tensorboard: bool = False

    def check(self) -> None:
        """Raise ``UsageError`` for a value out of its range, naming the option."""
        if self.threads is not None:
            _within("--threads", self.threads, 1, 1024)
        _within("--prefetch", self.prefetch, 1, 64)
        _within("--checkpoint-minutes", self.checkpoint_minutes, 0, float("inf"))
        _within("--checkpoint-steps", self.checkpoint_steps, 0, 2**63)


def default_recipe(name: Name) -> Recipe:
    """Return the recipe of ``--model NAME``.

    ``tutorial`` is the tutorial's own: size 100, batch 32, Adam at 1e-3, cross-entropy, five epochs, nothing more.
    ``unet`` is what measured best on two cores in a given time (docs/recipe.md): half-resolution stem, features added,
    muon, progressive size, strong augmentation, cross-entropy and Dice, weight average.
    """
    model = default_model_config(name)
    if name == "tutorial":
        return Recipe(
            model=model, size=100, epochs=5, batch_size=32, optimizer="adam", lr=1e-3, schedule="constant", warmup=0.0
        )
    return Recipe(
        model=model,
        size=128,
        progressive=True,
        epochs=80,
        batch_size=16,
        optimizer="muon",
        lr=8e-3,
        schedule="onecycle",
        warmup=0.15,
        weight_decay=0.02,
        dice_weight=1.0,
        augment="strong",
        ema_decay=None,
        clip_norm=1.0,
    )


def recipe_from(document: dict[str, Any]) -> Recipe:
    """Read a recipe from JSON-able values, such as a checkpoint's."""
    return msgspec.convert(document, Recipe)


def differences(kept: Recipe, asked: Recipe) -> list[str]:
    """Say, option by option, where two recipes differ: ``--epochs is 5, not 7``."""
    return _differences(msgspec.to_builtins(kept), msgspec.to_builtins(asked))


def _differences(kept: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    told = []
    for name, value in kept.items():
        if isinstance(value, dict):
            told += _differences(value, asked[name])
        elif asked[name] != value:
            option = "model" if name == "name" else name.replace("_", "-")
            told.append(f"--{option} is {value}, not {asked[name]}")
    return told


def _within(option: str, value: float, lowest: float, highest: float) -> None:
    if not lowest <= value <= highest:
        limits = f"from {lowest:g} to {highest:g}" if highest < 2**62 else f"of at least {lowest:g}"
        raise UsageError(f"{option} {value:g}: give a number {limits}")
