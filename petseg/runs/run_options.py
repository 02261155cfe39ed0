"""What a training is started with: the options of a new run, or of an existing one, as the caller has changed them."""

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import msgspec

from petseg.nets.model_config import NO_ENCODER, NO_WEIGHTS, ModelConfig
from petseg.runs.checkpoint import Checkpoint, CheckpointError, load_checkpoint, read_recipe
from petseg.runs.encoder_options import SCALE_OF_SMALL, SMALL_SIDE, WITH_WEIGHTS, is_of_timm
from petseg.runs.initial_weights import InitialWeights, read_initial_weights
from petseg.runs.option_fields import nearest
from petseg.runs.recipe import (
    Recipe,
    RuntimeOptions,
    apply_options,
    default_recipe,
    default_size,
    differences,
)
from petseg.runs.run_folder import BEST, CONFIG, LAST, METRICS, read_config
from shards.errors import FormatError, UsageError, first_line, option, spelled
from shards.format.dataset import ShardSet
from shards.public_calls import suggests_names
from shards.store.addresses import expect_paths, expect_places, is_remote
from shards.store.store_protocol import StoreError

_P = ParamSpec("_P")
_R = TypeVar("_R")


def checked_arguments(options: Any, make_reporter: Any, *, places: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a call from Python; ``UsageError`` unless its arguments can be used at all."""
    advice = "an open set has its place in .address"
    given = {name: place for name, place in places.items() if place is not None}
    expect_places(advice, **{name: given.pop(name) for name in ("shards",) if name in given})
    expect_paths(**given)
    if not isinstance(options, Mapping | None) or not all(isinstance(name, str) for name in options or ()):
        raise UsageError(f"options must be names with values, such as {{'epochs': 20}}, not {str(options)[:80]!r}")
    if not callable(make_reporter):
        raise UsageError("make_reporter is called to make a reporter: give ConsoleReporter itself, not one of them")
    return dict(options or {})


def suggests_options(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Have a call with an argument that the function lacks say which option was meant, and where it goes."""

    def otherwise(name: str) -> str:
        return f": options of the training go into options={{...}}{nearest(name, ModelConfig, Recipe, RuntimeOptions)}"

    return suggests_names(function, otherwise=otherwise)


def new_options(
    shards: str | Path | None, options: Mapping[str, Any]
) -> tuple[Recipe, RuntimeOptions, InitialWeights | None]:
    """Return the options of a new run, and the weights that ``init_from`` names.

    Where no option of the network is given, ``init_from`` decides the architecture. The set is not opened yet; see
    :func:`for_set`.
    """
    if shards is None:
        raise UsageError(spelled("--shards is missing: the folder that petseg-shard build created"))
    runtime = RuntimeOptions(shards=_lasting(shards))
    source = options.get("init_from")
    initial = None if source is None else read_initial_weights(source)
    if initial is None or {"model", *ModelConfig.__struct_fields__} & options.keys():
        recipe = default_recipe(options.get("model", "unet"))
    else:
        recipe = msgspec.structs.replace(default_recipe(initial.model.name), model=initial.model)
    encoder = NO_ENCODER if initial is None else initial.model.encoder
    if encoder == options.get("encoder", recipe.model.encoder) and is_of_timm(encoder):
        # As for an encoder with weights of its own, but for what that was trained with.
        assert initial is not None
        options = {**WITH_WEIGHTS, "input_scale": initial.model.input_scale, **options}
    return *apply_options(recipe, runtime, options), initial


def existing_options(
    run: Path, shards: str | Path | None, options: Mapping[str, Any]
) -> tuple[Recipe, RuntimeOptions, Checkpoint | None]:
    """Return an existing run's options, changed where that is allowed, and its last checkpoint if it has one."""
    if run.is_file():
        raise UsageError(f"{option('run')} {run} is a file; give the run's folder, {run.absolute().parent}")
    if not run.is_dir():
        raise UsageError(f"no such run: {run}; start it without {option('resume')}, or with {option('resume', 'auto')}")
    document = read_config(run)
    try:
        recipe = read_recipe(document["recipe"], source=run / CONFIG)
        runtime = msgspec.convert(document["running"], RuntimeOptions)
    except (KeyError, TypeError, RecursionError, msgspec.ValidationError) as error:
        raise CheckpointError(f"{run / CONFIG} is damaged, or of another version ({first_line(error)})") from None
    checkpoint = _last_checkpoint(run)
    if checkpoint is not None:
        if not checkpoint.resumable:
            raise CheckpointError(
                f"{run / LAST} has weights alone, as best.pt has, and not what training needs to continue; start a new "
                f"run from them with {option('init_from', run / LAST)}"
            )
        recipe = checkpoint.recipe
    requested, runtime = apply_options(recipe, runtime, options)
    if found := differences(recipe, requested):
        raise UsageError(
            f"{run} cannot be resumed with another recipe: {'; '.join(found)}. Omit these options to continue, or "
            "start a new run with them"
        )
    if shards is not None:
        runtime = msgspec.structs.replace(runtime, shards=_lasting(shards))
    return recipe, runtime, checkpoint


def _last_checkpoint(run: Path) -> Checkpoint | None:
    """Return a run's last.pt; None before the first one. What else the run has is named where it is damaged or gone."""
    advice = (
        f"start a new run from the best epoch's weights with {option('init_from', run)}"
        if (run / BEST).is_file()
        else ""
    )
    if (run / LAST).exists():
        try:
            return load_checkpoint(run / LAST)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; {advice}" if advice else str(error)) from None
    if (run / METRICS).is_file():  # it is written after last.pt
        what = f"{run} has finished epochs, but {LAST}, from which it would continue, is gone"
        raise CheckpointError(f"{what}; {advice or 'choose another ' + option('run')}")
    return None


def _lasting(shards: str | Path) -> str:
    """Return a set's address, or its absolute path."""
    return str(shards if is_remote(shards) else Path(shards).absolute())


def for_set(recipe: Recipe, data: ShardSet, options: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a new run with the set's number of classes and, unless requested, its size and fit.

    Unless requested, the network enlarges small images before an encoder with weights.
    """
    model = msgspec.structs.replace(recipe.model, classes=len(data.manifest.labels))
    fit = recipe.fit if "fit" in options or data.manifest.fit is None else data.manifest.fit
    size = recipe.size if "size" in options else default_size(recipe, data.manifest.size)
    chosen = recipe.init_from is not None or recipe.crop_scale is not None or "input_scale" in options
    if is_of_timm(model.encoder) and recipe.encoder_weights != NO_WEIGHTS and not chosen and max(size) <= SMALL_SIDE:
        model = msgspec.structs.replace(model, input_scale=SCALE_OF_SMALL)
    return msgspec.structs.replace(recipe, model=model, size=size, fit=fit)


def check_same_data(run: Path, data: ShardSet) -> None:
    """Raise ``UsageError`` unless a set has the content and the labels that an existing run was started with."""
    started = read_config(run).get("data")
    if not isinstance(started, dict):
        raise CheckpointError(f"{run / CONFIG} is damaged: it does not say what the run was trained on")
    found = data.manifest.fingerprint
    if started.get("fingerprint") != found:
        raise UsageError(
            f"{run} was started with other data: {data.address} has fingerprint {found[:12]}, the run "
            f"{str(started.get('fingerprint'))[:12]}; name its set with {option('shards')}, or start a new run"
        )
    if started.get("labels") != json.loads(msgspec.json.encode(data.manifest.labels)):
        raise UsageError(
            f"{run} was started with other labels: {data.address} has the same images and masks, but other values, "
            f"colours or foreground classes; name the run's own set with {option('shards')}, or start a new run"
        )


def check_same_set(run: Path, shards: str | Path | None) -> None:
    """The same of a set that is named for a run which needs none any more; one that cannot be opened is no matter."""
    if shards is not None:
        with contextlib.suppress(FormatError, StoreError):
            check_same_data(run, ShardSet.open(shards))


def initial_weights_again(run: Path, recipe: Recipe) -> InitialWeights | None:
    """Return the weights that a run starts from which has no checkpoint yet; ``UsageError`` if they have changed."""
    if recipe.init_from is None:
        return None
    initial = read_initial_weights(recipe.init_from)
    recorded = read_config(run).get("initialised_from")
    if not isinstance(recorded, dict) or recorded.get("sha256") != initial.sha256:
        raise UsageError(
            f"{initial.file} has changed since {run} was started from it, and the run has no checkpoint yet; start "
            f"it again without {option('resume')}"
        )
    return initial
