"""The options of a run: the recipe, which decides the weights, and the runtime options, which do not.

A field's description and limits are also those of its ``petseg-train`` option.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from petseg.nets.model_config import (
    MAX_SIZE,
    MIN_SIZE,
    NO_ENCODER,
    NO_WEIGHTS,
    ModelConfig,
    Name,
    default_model_config,
)
from petseg.optim.learning_rate import Schedule
from petseg.runs.encoder_options import check_encoder_options, complete_encoder_options, current_document
from petseg.runs.option_fields import AUTO, check_fields, convert_field, nearest, shown_value, spelling, takes_auto
from shards.errors import UsageError, option, spelled
from shards.format.geometry import MAX_SCALE, MIN_SCALE, Fit, Scales, Size, parse_size, size_text
from shards.store.remote.remote_files import Fetch

LoggerName = Literal["tensorboard", "wandb", "mlflow"]
LOGGER_NAMES: tuple[LoggerName, ...] = get_args(LoggerName)
LR_OF_ADAM = 4e-3  # unet's default for adam and adamw
DECAY_OF_ADAMW = 0.02  # unet's default for adamw
DEFAULT_WINDOW = 16  # shards: 4 GB at the default size of a shard
_LARGEST_DEFAULT = 4  # times the recipe's size; larger images would make every step very slow unasked
NO_OPTIONS = frozenset({"classes", "encoder_sha256"})  # fields that the data, or a file, decide


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything but the data that decides the trained weights; fixed when a run is resumed.

    ``size`` (height, width) and ``fit`` are explained in shards.format.geometry; :func:`apply_options` also takes N and
    "HxW". With ``crop_scale`` (see :class:`pipeline.Loader`) training never sees a whole large image; validation then
    scores the centre of each, and prediction slides windows over all of it.
    ``precision`` is explained in petseg.host.device, the optimisers and schedules in petseg.optim, ``progressive`` and
    ``plain_share`` in petseg.training.run_data. ``ema_decay`` None chooses a decay that fits the number of steps.
    ``init_from`` is an absolute path, see petseg.runs.initial_weights.

    ``encoder_weights`` is ``imagenet``, ``none`` or an absolute path, of a file with the SHA-256 ``encoder_sha256``.
    With an ``encoder_lr`` the encoder is trained by AdamW, otherwise like the rest of the network. The file is read and
    weights are fetched when a run starts, never again.
    """

    model: ModelConfig
    size: Annotated[Size, Meta(description="Size of the images in pixels, N or HxW.")]
    fit: Annotated[Fit, Meta(description="How images are brought to --size.")] = "stretch"
    init_from: (
        Annotated[str, Meta(description="A run, checkpoint or export whose weights the training starts from.")] | None
    ) = None
    crop_scale: (
        Annotated[
            Scales, Meta(description="Train on crops of --size at a scale from MIN,MAX output pixels per image pixel.")
        ]
        | None
    ) = None
    progressive: Annotated[bool, Meta(description="Start with smaller images.")] = False
    epochs: Annotated[int, Meta(ge=1, le=1_000_000, description="Epochs.")]
    batch_size: Annotated[int, Meta(ge=1, le=65536, description="Global batch size, all ranks together.")]
    drop_last: Annotated[bool, Meta(description="Leave out an epoch's last batch where it is incomplete.")] = False
    shuffle: Annotated[
        Literal["global", "block"], Meta(description="block: of --shuffle-window shards at a time, for large sets.")
    ] = "global"
    shuffle_window: Annotated[int, Meta(ge=1, le=1_000_000, description="Shards that are shuffled together.")] = (
        DEFAULT_WINDOW
    )
    accumulate: Annotated[int, Meta(ge=1, description="Micro-batches per batch; more need less memory.")] = 1
    optimizer: Annotated[Literal["adam", "adamw", "muon"], Meta(description="Optimiser.")]
    lr: Annotated[float, Meta(gt=0, description="Peak learning rate.")]
    schedule: Annotated[Schedule, Meta(description="Learning-rate schedule.")]
    warmup: Annotated[float, Meta(ge=0, le=1, description="Share of the steps in which onecycle rises.")] = 0.1
    weight_decay: Annotated[float, Meta(ge=0, le=10, description="Of adamw and muon, on kernels only.")] = 0.0
    dice_weight: Annotated[float, Meta(ge=0, le=1000, description="Weight of Dice; cross-entropy has 1.")] = 0.0
    class_weights: Annotated[
        Literal["none", "balanced"], Meta(description="balanced: by 1/sqrt of a class's share of pixels, mean 1.")
    ] = "none"
    label_smoothing: Annotated[float, Meta(ge=0, le=0.99, description="Share of the target spread over classes.")] = 0.0
    augment: Annotated[Literal["none", "train", "strong"], Meta(description="strong: for small datasets.")] = "none"
    plain_share: Annotated[float, Meta(ge=0, le=1, description="Share of the last epochs that only flip images.")] = 0.0
    decode: Annotated[Literal["full", "scaled"], Meta(description="scaled: faster, training images differ a bit.")] = (
        "full"
    )
    ema_decay: Annotated[float, Meta(ge=0, le=0.999999, description="Of the weight average; 0: none.")] | None = 0.0
    clip_norm: Annotated[float, Meta(ge=0, description="Largest norm of the gradient; 0: no limit.")] = 0.0
    validate_every: Annotated[int, Meta(ge=1, description="Validate every N epochs and after the last.")] = 1
    patience: Annotated[int, Meta(ge=0, description="Stop after N epochs without a better score; 0: never.")] = 0
    encoder_weights: Annotated[str, Meta(description="What --encoder starts from: imagenet, none, FILE.")] = NO_WEIGHTS
    encoder_sha256: str = ""
    encoder_lr: Annotated[float, Meta(gt=0, description="Peak learning rate of an encoder with weights.")] | None = None
    encoder_freeze: Annotated[int, Meta(ge=0, description="Epochs in which the encoder stays as it is.")] = 0
    encoder_freeze_stride: Annotated[int, Meta(ge=0, le=64, description="Never train levels up to this stride.")] = 0
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1, description="Of weights, order, augmentation, dropout.")] = 0
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"], Meta(description="Of convolutions.")] = "auto"

    @property
    def network_text(self) -> str:
        """The network, and what its encoder starts from, in this order: ``unet with resnet34 from noise``."""
        if self.model.encoder == NO_ENCODER:
            return self.model.name
        weights = Path(self.encoder_weights).name if self.encoder_weights != NO_WEIGHTS else None
        starts = [start for start in (weights, self.init_from) if start]
        return f"{self.model.name} with {self.model.encoder} from {', then '.join(starts) or 'noise'}"

    def validates(self, epoch: int) -> bool:
        """Whether an epoch (from 0) ends with a validation."""
        return (epoch + 1) % self.validate_every == 0 or epoch + 1 == self.epochs

    def check(self) -> None:
        """Raise ``UsageError`` for a value that is impossible or does not fit the others, naming the option."""
        check_fields(self.model)
        self.model.check()
        check_fields(self)
        parse_run_size(self.size)
        if self.crop_scale is not None and not MIN_SCALE <= self.crop_scale[0] <= self.crop_scale[1] <= MAX_SCALE:
            limits = f"{MIN_SCALE:g} <= MIN <= MAX <= {MAX_SCALE:g}"
            raise UsageError(f"{option('crop_scale', self.crop_scale)}: give MIN,MAX with {limits}, such as 0.5,2")
        if self.accumulate > self.batch_size:
            raise UsageError(f"{option('accumulate', self.accumulate)}: give a number from 1 to {self.batch_size}")
        if self.shuffle_window != DEFAULT_WINDOW and self.shuffle != "block":
            raise UsageError(
                spelled(f"--shuffle-window is for --shuffle=block; else give --shuffle-window={DEFAULT_WINDOW}")
            )
        if self.weight_decay and self.optimizer == "adam":
            raise UsageError(spelled("--weight-decay is for --optimizer=adamw and muon; else give --weight-decay=0"))
        given = {
            "encoder_weights": self.encoder_weights != NO_WEIGHTS,
            "encoder_lr": self.encoder_lr is not None,
            "encoder_freeze": self.encoder_freeze > 0,
            "encoder_freeze_stride": self.encoder_freeze_stride > 0,
        }
        check_encoder_options(self.model.encoder, given)


class RuntimeOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a run is executed; may change when it is resumed, the weights stay the same up to rounding.

    Only samples that are replaced because they are damaged (``on_error``) change more.
    ``shards`` is the set's absolute path or address; it may be moved, not changed. ``threads`` None is all cores.
    ``cache`` "" is in the user's cache folder, and ``cache_bytes`` "" half of what is free there.
    ``cuda_graph`` None is yes where a step can be one, unless the network is compiled. ``log_every`` None is 1 on a CPU
    and 25 on a GPU, where results are read one such block of steps late.
    """

    shards: str
    device: Annotated[str, Meta(description="auto, cpu, cuda or cuda:N.")] = "auto"
    threads: Annotated[int, Meta(ge=1, le=1024, description="torch's CPU threads.")] | None = None
    prefetch: Annotated[int, Meta(ge=1, le=64, description="Batches that the loader prepares in advance.")] = 2
    engine: Annotated[Literal["auto", "dali", "torch"], Meta(description="The loader's engine.")] = "auto"
    compile: Annotated[bool, Meta(description="Use torch.compile; not worthwhile on a CPU.")] = False
    cuda_graph: Annotated[bool, Meta(description="Launch a step as one CUDA graph; one GPU, not fp16.")] | None = None
    log_every: Annotated[int, Meta(ge=1, le=100_000, description="Read losses and stops every N steps.")] | None = None
    checkpoint_minutes: Annotated[float, Meta(ge=0, description="Write last.pt every N minutes; 0: never.")] = 5.0
    checkpoint_epochs: Annotated[int, Meta(ge=1, description="Write last.pt after every N-th epoch.")] = 1
    checkpoint_steps: Annotated[int, Meta(ge=0, description="Write last.pt every N steps; 0: never.")] = 0
    stop_signal: Annotated[str, Meta(description="Further signals that checkpoint and stop, such as USR2,HUP.")] = ""
    rank_timeout: Annotated[
        float, Meta(gt=0, le=1440, description="Minutes without an answer after which another process counts as lost.")
    ] = 10.0
    on_error: Annotated[Literal["stop", "replace"], Meta(description="What to do at a damaged sample.")] = "stop"
    max_damaged: Annotated[int, Meta(ge=0, description="Most samples that --on-error replace may replace.")] = 10
    fetch: Annotated[Fetch, Meta(description="From an object store: single samples or whole shards.")] = "auto"
    cache: Annotated[str, Meta(description="Folder to cache a set of an object store in.")] = ""
    cache_bytes: Annotated[str, Meta(description="Most that --cache may hold, such as 200GB.")] = ""
    logger: Annotated[tuple[LoggerName, ...], Meta(description="Also log metrics to these services.")] = ()
    tensorboard: Annotated[bool, Meta(description="The same as --logger tensorboard.")] = False


def default_recipe(name: Name) -> Recipe:
    """Return the recipe of ``--model NAME``.

    ``tutorial`` is the tutorial's own. ``unet`` is what scored best on two cores in a given time (docs/recipe.md).
    """
    model = default_model_config(name)
    if name == "tutorial":
        return Recipe(
            model=model,
            size=(100, 100),
            epochs=5,
            batch_size=32,
            optimizer="adam",
            lr=1e-3,
            schedule="constant",
            warmup=0.0,
        )
    return Recipe(
        model=model,
        size=(128, 128),
        progressive=True,
        epochs=80,
        batch_size=16,
        drop_last=True,
        optimizer="muon",
        lr=8e-3,
        schedule="onecycle",
        warmup=0.15,
        weight_decay=1.0,
        dice_weight=1.0,
        augment="strong",
        plain_share=0.15,
        ema_decay=None,
        clip_norm=1.0,
    )


def default_size(recipe: Recipe, stored: Size | None) -> Size:
    """Return the size of a new run for which none is requested, on a set of this stored size (None: ``source``).

    unet takes the stored size if its sides are at least :data:`MIN_SIZE` and at most four times those of the recipe;
    the tutorial keeps its own, unless that would enlarge the images.
    """
    if stored is None or min(stored) < MIN_SIZE:
        return recipe.size
    sides = list(zip(stored, recipe.size, strict=True))
    if recipe.model.name == "tutorial":
        return stored if any(side < own for side, own in sides) else recipe.size
    return stored if all(side <= _LARGEST_DEFAULT * own for side, own in sides) else recipe.size


def recipe_from(document: dict[str, Any]) -> Recipe:
    """Read a recipe from JSON values, such as those of a checkpoint or config.json; also those of version 1.

    There the size is one number; for encoders see :func:`petseg.runs.encoder_options.current_document`.
    """
    size = document.get("size")
    if isinstance(size, int):
        document = {**document, "size": (size, size)}
    return msgspec.convert(current_document(document), Recipe)


def parse_run_size(value: Any) -> Size:
    """Return (height, width) of a network's images from N, (H, W), "N" or "HxW"; ``UsageError`` if out of range."""
    return parse_size(value, name="size", least=MIN_SIZE, most=MAX_SIZE)


def apply_options(recipe: Recipe, runtime: RuntimeOptions, options: Mapping[str, Any]) -> tuple[Recipe, RuntimeOptions]:
    """Return both with the given fields changed; ``model`` is the network's name, ``sum`` another word for join=add.

    Numbers given as ``auto`` are chosen. A name that is no field, and a value that its field cannot have, raise
    ``UsageError``.
    """
    options, model = dict(options), recipe.model
    name = convert_field(ModelConfig, "name", options.pop("model", model.name))
    if name != model.name:
        model = default_model_config(name)
    if options.get("join") == "sum":
        options["join"] = "add"
    if "size" in options:
        options["size"] = parse_run_size(options["size"])
    for field in ("init_from", "cache"):
        if isinstance(options.get(field), str | Path) and str(options[field]):
            options[field] = str(Path(options[field]).absolute())
    # Some defaults belong to another option's default, and go with it.
    if "encoder" in options or "encoder_weights" in options or "pretrained" in options:
        complete_encoder_options(model, recipe.encoder_weights, options)
    if options.get("optimizer") == "adam":
        options.setdefault("weight_decay", 0.0)
    if recipe.optimizer == "muon" and options.get("optimizer") in ("adam", "adamw"):
        options.setdefault("lr", LR_OF_ADAM)
        options.setdefault("weight_decay", DECAY_OF_ADAMW)

    def take(struct: msgspec.Struct) -> dict[str, Any]:
        fields = set(struct.__struct_fields__) - NO_OPTIONS
        return {field: convert_field(type(struct), field, options.pop(field)) for field in fields & options.keys()}

    model = msgspec.structs.replace(model, **take(model))
    recipe = msgspec.structs.replace(recipe, model=model, **take(recipe))
    runtime = msgspec.structs.replace(runtime, **take(runtime))
    if options:
        meant = nearest(min(options), model, recipe, runtime) if min(options) not in NO_OPTIONS else ""
        raise UsageError(f"no such option: {min(options)}{meant}")
    return recipe, runtime


def differences(kept: msgspec.Struct, asked: msgspec.Struct) -> list[str]:
    """List where two recipes differ, by option: ``--epochs is 5, not 7``."""
    found = []
    for field in kept.__struct_fields__:
        old, new = getattr(kept, field), getattr(asked, field)
        if isinstance(old, msgspec.Struct):
            found += differences(old, new)
        elif old != new:
            found.append(f"{option(spelling(field))} is {_shown(field, old)}, not {_shown(field, new)}")
    return found


def _shown(field: str, value: Any) -> str:
    if value is None:
        return AUTO if takes_auto(Recipe, field) else "none"
    if isinstance(value, tuple):
        return size_text(value) if field == "size" else ",".join(f"{each:g}" for each in value)
    return ("no", "yes")[value] if isinstance(value, bool) else str(shown_value(field, value))
