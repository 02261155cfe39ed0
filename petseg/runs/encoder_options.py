"""The options of an encoder: what goes with what, version 1's words for them, and its runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from petseg.nets.model_config import IMAGENET, NO_ENCODER, NO_WEIGHTS, TORCHVISION, ModelConfig
from petseg.runs.option_fields import convert_field
from shards.errors import UsageError, option, spelled
from shards.store.addresses import expect_paths

# What a training is started with, unless it is said otherwise, where the encoder starts from weights (docs/recipe.md).
WITH_WEIGHTS: Final[Mapping[str, Any]] = {
    "encoder_lr": 1e-3,
    "encoder_freeze_stride": 4,
    "batch_size": 8,
    "epochs": 20,
    "augment": "train",
    "plain_share": 0.0,
    "weight_decay": 0.02,
}

# Encoders with weights know objects of larger images than these, whose longer side has at most so many pixels.
SMALL_SIDE, SCALE_OF_SMALL = 160, 1.5


def is_of_timm(encoder: str) -> bool:
    """Whether this is one of timm's networks, not ``none`` nor version 1's."""
    return encoder != NO_ENCODER and not encoder.startswith(TORCHVISION)


def check_encoder_options(encoder: str, given: dict[str, bool]) -> None:
    """Raise ``UsageError`` for options that need an encoder, by their fields, where they are given without."""
    for field in (name for name, is_given in given.items() if is_given):
        if encoder == NO_ENCODER:
            raise UsageError(f"{option(field)} needs {option('encoder')}, such as {option('encoder', 'resnet34')}")
        if encoder.startswith(TORCHVISION) and field.startswith("encoder_freeze"):
            raise UsageError(f"{option('encoder', encoder)} is version 1's network, which cannot be frozen")


def complete_encoder_options(model: ModelConfig, weights: str, options: dict[str, Any]) -> None:
    """Complete the options of an encoder in place, for a network and the weights that it has without them.

    A run that has this encoder already, as one that is resumed, keeps what it has. ``pretrained`` is version 1's word
    for its weights. Raises ``UsageError`` for values of a wrong type.
    """
    if "encoder" in options:
        options["encoder"] = convert_field(ModelConfig, "encoder", options["encoder"])
    if not isinstance(options.get("encoder_weights", ""), str | Path):
        raise UsageError(f"{option('encoder_weights', options['encoder_weights'])}: expected text")
    if not isinstance(options.get("pretrained", True), bool):
        raise UsageError(f"{option('pretrained', options['pretrained'])}: expected true or false")
    if "pretrained" in options:
        meant = IMAGENET if options.pop("pretrained") else NO_WEIGHTS
        if options.setdefault("encoder_weights", meant) != meant:
            raise UsageError(
                spelled("--pretrained is --encoder-weights=imagenet, --no-pretrained is none: give one of them")
            )
    if options.get("encoder_weights", NO_WEIGHTS) not in (IMAGENET, NO_WEIGHTS):
        expect_paths(**{option("encoder_weights"): options["encoder_weights"]})
        options["encoder_weights"] = str(Path(options["encoder_weights"]).absolute())
    if model.encoder == f"{TORCHVISION}{options.get('encoder')}":  # a run of version 1 with its own option repeated
        options["encoder"] = model.encoder
    if options.get("encoder", model.encoder) == model.encoder:
        return
    if options["encoder"].startswith(TORCHVISION):
        options.setdefault("stem", "full")
    if is_of_timm(options["encoder"]) and options.get("encoder_weights", weights) != NO_WEIGHTS:
        options.update({**WITH_WEIGHTS, **options})


def current_document(document: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe as JSON values with the encoder of version 1 in the present words.

    There it is torchvision's, and ``pretrained`` belongs to the architecture.
    """
    model = document.get("model")
    if not isinstance(model, dict) or "pretrained" not in model:
        return document
    model = dict(model)
    weights = {"encoder_weights": IMAGENET} if model.pop("pretrained") else {}
    if model.get("encoder", NO_ENCODER) != NO_ENCODER:
        model["encoder"] = f"{TORCHVISION}{model['encoder']}"
    return {**document, **weights, "model": model}
