"""``petseg-train``: parses the options, calls :func:`petseg.train`, prints the result."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
import msgspec

from petseg.runs.option_fields import field_types, option_name
from petseg.runs.recipe import LR_OF_ADAM, Recipe, RuntimeOptions, default_recipe
from shards.console import FriendlyCommand, PathArgument, print_json

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

# Defaults that are not one value per model.
_DEFAULTS = {
    "lr": f"unet {default_recipe('unet').lr:g}, {LR_OF_ADAM:g} with adam and adamw; "
    f"tutorial {default_recipe('tutorial').lr:g}",
    "ema_decay": "unet by the run's length, tutorial 0",
    "threads": "all cores",
}


class Widths(click.ParamType[tuple[int, ...]]):
    """Channels of the levels: ``16,32,64``."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the numbers of a comma-separated list."""
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers such as 24,48,96,192,256", param, ctx)


def _apply(*decorators: Decorator) -> Decorator:
    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


# Every option is None unless given: then the model's default holds, or the resumed run's value.
def _field_options(struct: type[msgspec.Struct], *defaults: msgspec.Struct, skip: str) -> Decorator:
    """Return an option for each field of a struct except ``skip``; ``defaults`` are unet's and tutorial's."""
    decorators = []
    for name, (kind, meta) in field_types(struct).items():
        if name == skip:
            continue
        option, default = option_name(name), _DEFAULTS.get(name) or _default(name, *defaults)
        text = f"{meta.description}  [default: {default}]"
        if kind is bool:
            spellings = f"{option}/--no-{option.removeprefix('--')}"
            decorators.append(click.option(spellings, name, default=None, help=text))
        else:
            type_ = click.Choice(get_args(kind)) if get_origin(kind) is Literal else kind
            decorators.append(click.option(option, name, type=type_, help=text))
    return _apply(*decorators)


def _default(name: str, *defaults: msgspec.Struct) -> str:
    texts = []
    for value in (getattr(struct, name) for struct in defaults):
        number = f"{value:g}" if isinstance(value, float) else str(value)
        texts.append(("no", "yes")[value] if isinstance(value, bool) else number)
    return texts[0] if len(set(texts)) == 1 else f"unet {texts[0]}, tutorial {texts[1]}"


_RUN_OPTIONS = _apply(
    click.option("--shards", type=PathArgument(), help="Shard set; may be omitted with --resume."),
    click.option("--run", type=PathArgument(), help="Folder of the run.  [default: runs/MODEL-NNN]"),
    click.option("--resume", is_flag=True, help="Continue the run in --run where it stopped."),
    click.option("--model", type=click.Choice(["unet", "tutorial"]), help="Network and recipe.  [default: unet]"),
    click.option("--json", "as_json", is_flag=True, help="Print the last epoch's metrics as one JSON object."),
)
_MODEL_OPTIONS = _apply(
    click.option("--widths", type=Widths(), help="Channels of unet's levels.  [default: 24,48,96,192,256]"),
    click.option(
        "--stem",
        type=click.Choice(["full", "half"]),
        help="Resolution of unet's finest level.  [default: half; full with --encoder]",
    ),
    click.option("--blocks", type=int, help="Residual blocks per level of unet.  [default: 1]"),
    click.option("--norm", type=click.Choice(["batch", "group"]), help="Normalisation in unet.  [default: batch]"),
    click.option("--upsample", type=click.Choice(["bilinear", "transposed"]), help="[default: bilinear]"),
    click.option(
        "--skip",
        "--join",
        "join",
        type=click.Choice(["concat", "sum", "add"]),
        help="Skip connections of unet; add is another word for sum.  [default: sum]",
    ),
    click.option("--dropout", type=float, help="Of unet's coarsest channels.  [default: 0]"),
    click.option("--encoder", type=click.Choice(["none", "resnet18", "resnet34", "resnet50"]), help="[default: none]"),
    click.option("--pretrained/--no-pretrained", default=None, help="Start --encoder from its ImageNet weights."),
)


@click.command(cls=FriendlyCommand, context_settings={"max_content_width": 110})
@_RUN_OPTIONS
@_field_options(Recipe, default_recipe("unet"), default_recipe("tutorial"), skip="model")
@_MODEL_OPTIONS
@_field_options(RuntimeOptions, RuntimeOptions(shards=""), skip="shards")
def train(shards: Path | None, run: Path | None, resume: bool, as_json: bool, **options: Any) -> None:
    """Train a network on a shard set.

    \b
    petseg-train --shards pets-shards --run runs/pets
    petseg-train --resume --run runs/pets           after Ctrl-C, a kill, a power cut
    torchrun --nproc-per-node 4 --no-python -- petseg-train --shards pets-shards --run runs/pets

    --batch-size is the global batch size. Training loss and IoU are measured on the training images while training on
    them; validation uses the averaged weights. Without --resume an existing run is never changed.
    """
    from petseg.host.distributed import world_from_environment
    from petseg.host.stop_signals import DivergedError, InterruptedRunError
    from petseg.report.artifacts import read_history
    from petseg.report.console_reporter import ConsoleReporter
    from petseg.runs.run_folder import read_config
    from petseg.training.start import train as start_training

    world = world_from_environment()
    try:
        path = start_training(
            shards,
            run=run,
            resume=resume,
            options={name: value for name, value in options.items() if value is not None},
            command=shlex.join(["petseg-train", *sys.argv[1:]]),
            make_reporter=lambda: ConsoleReporter(quiet=as_json),
        )
    except (InterruptedRunError, DivergedError) as error:
        if world.first:
            raise
        sys.exit(error.exit_code)  # every rank raises this; rank 0 prints it
    if not world.first:
        return
    if as_json:
        print_json({"run": str(path), **read_history(path)[-1]})
    else:
        data = str(shards or read_config(path)["running"]["shards"])
        command = shlex.join(["petseg-eval", str(path), "--shards", data])
        click.echo(f"run in {path}: best.pt, report.html, gallery.png; score it with: {command}")
