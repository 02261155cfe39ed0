"""``petseg-train``: parses the options, calls :func:`petseg.train`, prints the result."""

import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
import msgspec

from petseg.cli.shared_options import HELP, NamedType, NumbersOption, SizeOption
from petseg.nets.model_config import ModelConfig, Name
from petseg.runs.encoder_options import SCALE_OF_SMALL, SMALL_SIDE, WITH_WEIGHTS
from petseg.runs.option_fields import AUTO, field_types, option_name, shown_value, takes_auto
from petseg.runs.recipe import DECAY_OF_ADAMW, LR_OF_ADAM, NO_OPTIONS, Recipe, RuntimeOptions, default_recipe
from shards.console import PATH, FriendlyCommand, PathArgument, PlaceArgument, print_json, say
from shards.format.geometry import Scales, Size, size_text

_UNET, _TUTORIAL = default_recipe("unet"), default_recipe("tutorial")
# Defaults that are not one value per model.
_DEFAULTS = {
    "cuda_graph": "yes where possible, unless --compile",
    **{
        name: f"unet {getattr(_UNET, name)}, with an encoder's weights {WITH_WEIGHTS[name]}; "
        f"tutorial {getattr(_TUTORIAL, name)}"
        for name in ("epochs", "batch_size", "augment")
    },
    "size": "the set's, where it has one of 32 to 512 a side, else 128; tutorial 100, or a smaller set's",
    "lr": f"unet {_UNET.lr:g}, {LR_OF_ADAM:g} with adam and adamw; tutorial {_TUTORIAL.lr:g}",
    "plain_share": f"unet {_UNET.plain_share:g}, with an encoder's weights {WITH_WEIGHTS['plain_share']:g}; tutorial "
    f"{_TUTORIAL.plain_share:g}",
    "weight_decay": f"unet {_UNET.weight_decay:g}, with adamw {DECAY_OF_ADAMW:g}, with an encoder's weights "
    f"{WITH_WEIGHTS['weight_decay']:g}; tutorial {_TUTORIAL.weight_decay:g}",
    "encoder_lr": f"{WITH_WEIGHTS['encoder_lr']:g}; without weights that of the rest",
    "encoder_freeze_stride": f"{WITH_WEIGHTS['encoder_freeze_stride']}; without weights 0",
    "ema_decay": "unet by the run's length, tutorial 0",
    "fit": "the set's where its images have one size, else stretch",
    "threads": "all cores",
    "logger": "metrics.jsonl alone",
    "init_from": "noise",
    "cache": "petseg in the user's cache folder",
    "cache_bytes": "half of what is free",
    "stop_signal": "INT, TERM, USR1 and HUP alone",
    "crop_scale": "none, whole images",
    "log_every": "1 on a CPU, 25 on a GPU",
    "decoder_widths": "24,48,96,160 at strides of 2 to 16",
    "input_scale": f"with an encoder's weights {SCALE_OF_SMALL} up to a --size of {SMALL_SIDE}, else 1",
}


WIDTHS = NumbersOption("N,N,...", int, "a list of whole numbers such as 24,48,96,192,256")
SCALE_RANGE = NumbersOption("MIN,MAX", float, "MIN,MAX, two numbers such as 0.5,2", count=2)


class NameList(NamedType):
    """Names separated by commas, of which ``none`` stands for no name."""

    def __init__(self, names: Sequence[str]) -> None:
        self.name, self._names = "|".join(names), names

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Return the names; fail if one is not among those that are possible."""
        found = [name.strip() for name in str(value).split(",")]
        for name in found:
            if name not in self._names:
                self.fail(f"{name!r} is not one of {', '.join(self._names)}", param, ctx)
        return tuple(name for name in found if name != "none")


def _joined(ctx: click.Context, param: click.Parameter, values: tuple[tuple[str, ...], ...]) -> Any:
    return tuple(dict.fromkeys(name for part in values for name in part)) if values else None


class NumberOrAuto(NamedType):
    """A number, or ``auto``, where the program can choose one."""

    def __init__(self, kind: type[int] | type[float]) -> None:
        self._number = click.types.convert_type(kind)
        self.name = f"{self._number.name.upper()}|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or ``auto``; fail if it is neither."""
        try:
            return value if value == AUTO else self._number.convert(value, param, ctx)
        except click.BadParameter as error:
            self.fail(f"{error.message.removesuffix('.')}, nor {AUTO}", param, ctx)


# Every option is None unless given: then the model's default holds, or the resumed run's value.
def _field_options(struct: type[msgspec.Struct], *defaults: msgspec.Struct, skip: str) -> list[click.Option]:
    """Return an option for each field of a struct except ``skip``; ``defaults`` are unet's and tutorial's."""
    options = []
    for name, (kind, meta) in field_types(struct).items():
        if name == skip or name in NO_OPTIONS:
            continue
        option, default = option_name(name), _DEFAULTS.get(name) or _default(name, *defaults)
        text = f"{meta.description}  [default: {default}]"
        if kind is bool:
            option = f"{option}/--no-{option.removeprefix('--')}"
        if get_origin(kind) is tuple and get_origin(get_args(kind)[0]) is Literal:
            listed = NameList([*get_args(get_args(kind)[0]), "none"])
            options.append(click.Option([option, name], type=listed, multiple=True, callback=_joined, help=text))
            continue
        special = {Size: SizeOption(), Scales: SCALE_RANGE, tuple[int, ...]: WIDTHS}
        type_ = click.Choice(get_args(kind)) if get_origin(kind) is Literal else special.get(kind, kind)
        type_ = PATH if name in ("init_from", "cache") else NumberOrAuto(kind) if takes_auto(struct, name) else type_
        names = [option, name]
        if name == "join":  # its field's name, and the other word for its values, are options as well
            names, type_ = [option, "--join", name], click.Choice(["concat", "sum", "add"])
        options.append(click.Option(names, type=type_, default=None, help=text))
    return options


def _default(name: str, *defaults: msgspec.Struct) -> str:
    texts = []
    for value in (shown_value(name, getattr(struct, name)) for struct in defaults):
        number = f"{value:g}" if isinstance(value, float) else size_text(value) if name == "size" else str(value)
        number = ",".join(map(str, value)) if isinstance(value, tuple) and name != "size" else number
        texts.append(("no", "yes")[value] if isinstance(value, bool) else number)
    return texts[0] if len(set(texts)) == 1 else f"unet {texts[0]}, tutorial {texts[1]}"


_RESUME = "always"
_RUN_OPTIONS = [
    click.Option(
        ["--shards"], type=PlaceArgument(), help="Shard set, a folder or address; may be omitted with --resume."
    ),
    click.Option(["--run"], type=PathArgument(), help="Folder of the run.  [default: runs/MODEL-NNN]"),
    click.Option(
        ["--resume"],
        is_flag=False,
        flag_value=_RESUME,
        type=click.Choice([_RESUME, AUTO]),
        metavar="[auto]",
        help="Continue the run in --run where it stopped; auto: if it has a checkpoint, else start it.  "
        "[default: start a new run]",
    ),
    click.Option(["--config"], type=PATH, help="TOML file of options, or a run that has them.  [default: none]"),
    click.Option(["--model"], type=click.Choice(get_args(Name)), help="Network and recipe.  [default: unet]"),
    click.Option(["--json", "as_json"], is_flag=True, help="Print the last epoch's metrics as one JSON object."),
]
_MODEL_OPTIONS = [
    *_field_options(ModelConfig, _UNET.model, skip="name"),
    click.Option(["--pretrained/--no-pretrained"], default=None, help="--encoder-weights imagenet or none."),
]
_RECIPE_OPTIONS = _field_options(Recipe, _UNET, _TUTORIAL, skip="model")
_RUNTIME_OPTIONS = _field_options(RuntimeOptions, RuntimeOptions(shards=""), skip="shards")


@click.command(
    cls=FriendlyCommand,
    context_settings={**HELP, "max_content_width": 110},
    params=[*_RUN_OPTIONS, *_RECIPE_OPTIONS, *_MODEL_OPTIONS, *_RUNTIME_OPTIONS],
)
def train(
    shards: str | Path | None, run: Path | None, resume: str | None, config: Path | None, as_json: bool, **options: Any
) -> None:
    """Train a network on a shard set.

    \b
    petseg-train --shards pets-shards --run runs/pets
    petseg-train --resume --run runs/pets           after Ctrl-C, a kill, a power cut
    petseg-train --config street.toml --run runs/street --resume auto           started again and again by a scheduler
    torchrun --nproc-per-node 4 --no-python -- petseg-train --shards pets-shards --run runs/pets

    --batch-size is the global batch size. Training loss and IoU are measured on the training images while training on
    them; validation uses the averaged weights. Without --resume an existing run is never changed. INT, TERM, USR1
    and HUP write a checkpoint first; the exit code is then 130 after INT (Ctrl-C) and 75 after the others.
    """
    from petseg.host.agreement import RefusedStartError
    from petseg.host.distributed import world_from_environment
    from petseg.host.lasting_output import lasting_output
    from petseg.host.stop_signals import DivergedError, InterruptedRunError
    from petseg.report.console_reporter import ConsoleReporter
    from petseg.runs.run_folder import find_checkpoint, read_config, read_metrics
    from petseg.training.start import train as start_training

    world = world_from_environment()
    with lasting_output("the training goes on without it; metrics.jsonl in the run's folder has every epoch"):
        try:
            path = start_training(
                shards,
                run=run,
                resume="auto" if resume == AUTO else resume is not None,
                config=config,
                options={name: value for name, value in options.items() if value is not None},
                command=shlex.join(["petseg-train", *sys.argv[1:]]),
                make_reporter=lambda: ConsoleReporter(quiet=as_json),
            )
        except (InterruptedRunError, DivergedError, RefusedStartError) as error:
            if world.size > 1:  # torchrun ends the ranks that exit last, which would change their exit code
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if world.first:
                raise
            sys.exit(error.exit_code)  # every rank raises this; rank 0 prints it
        if not world.first:
            return
        written = read_config(path)
        if as_json:
            ran = {"size": written["recipe"]["size"], "precision": written.get("precision")}
            print_json({"run": str(path), **ran, **read_metrics(path)[-1]})
        else:
            command = _scoring_command(path, shards, written)
            say(f"run in {path}: {find_checkpoint(path).name}, report.html, gallery.png; score it with: {command}")


def _scoring_command(run: Path, shards: str | Path | None, config: dict[str, Any]) -> str:
    """Return the petseg-eval command for a run: on the test split, or on another one if its set has no such split.

    Where the set is gone, SET stands for it, and the end says so: a finished run ends without opening its set.
    """
    from petseg.inference.scoring import split_to_score
    from shards.format.layout import SPLITS
    from shards.store.addresses import is_remote

    data = config.get("data")
    samples = data.get("samples") if isinstance(data, dict) else None
    split = split_to_score(samples) if isinstance(samples, dict) and samples.keys() & {*SPLITS} else "test"
    choice = [] if split == "test" else ["--split", split]
    place = str(shards or config["running"]["shards"])
    gone = not is_remote(place) and not Path(place).exists()
    command = shlex.join(["petseg-eval", str(run), "--shards", "SET" if gone else place, *choice])
    return f"{command} (the set is no longer in {place}; SET is where it is now)" if gone else command
