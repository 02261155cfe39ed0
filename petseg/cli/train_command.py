"""``petseg-train``: reads the options, calls :func:`petseg.train`, prints."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from shards.console import FriendlyCommand, PathArgument, print_json
from shards.errors import UsageError

_AUTO = "fitting the model"  # what a default says that --model decides; petseg.runs.recipe has the numbers

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Widths(click.ParamType[tuple[int, ...]]):
    """Channels of the levels: ``16,32,64``."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the numbers of a comma-separated list."""
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers such as 24,48,96,192,256", param, ctx)


def _options(*decorators: Decorator) -> Decorator:
    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


# Every option is None unless it was given: the model's defaults, or a resumed run's values, then hold.
_WHAT = _options(
    click.option("--shards", type=PathArgument(), help="Shard set; may be left out with --resume."),
    click.option("--run", type=PathArgument(), help="Folder of the run.  [default: runs/MODEL-NNN]"),
    click.option("--resume", is_flag=True, help="Go on with the run in --run where it stopped."),
    click.option("--model", type=click.Choice(["unet", "tutorial"]), help="Network and recipe.  [default: unet]"),
    click.option("--json", "as_json", is_flag=True, help="Print the last epoch's metrics as one JSON object."),
)
_RECIPE = _options(
    click.option("--size", type=int, help="Side of the pictures in pixels.  [default: unet 128, tutorial 100]"),
    click.option("--progressive/--no-progressive", default=None, help="Smaller pictures first.  [default: unet yes]"),
    click.option("--epochs", type=int, help="Epochs.  [default: unet 80, tutorial 5]"),
    click.option("--batch-size", type=int, help="Global batch, all ranks.  [default: unet 16, tutorial 32]"),
    click.option("--accumulate", type=int, help="Compute each batch in so many parts, to save memory.  [default: 1]"),
    click.option(
        "--lr",
        type=float,
        help="Peak learning rate.  [default: unet 0.008, 0.004 with adam and adamw; tutorial 0.001]",
    ),
    click.option(
        "--optimizer", type=click.Choice(["adam", "adamw", "muon"]), help="[default: unet muon, tutorial adam]"
    ),
    click.option("--schedule", type=click.Choice(["constant", "cosine", "onecycle"]), help=f"[default: {_AUTO}]"),
    click.option("--warmup", type=float, help="Share of the steps in which onecycle rises.  [default: 0.15]"),
    click.option("--weight-decay", type=float, help="Of adamw and muon, on kernels only.  [default: 0.02]"),
    click.option("--dice-weight", type=float, help="Dice loss beside cross-entropy.  [default: unet 1, tutorial 0]"),
    click.option("--class-weights", type=click.Choice(["none", "balanced"]), help="In the loss.  [default: none]"),
    click.option("--label-smoothing", type=float, help="Share of the truth spread over all classes.  [default: 0]"),
    click.option(
        "--augment",
        type=click.Choice(["none", "train", "strong"]),
        help="strong: for few pictures.  [default: unet strong, tutorial none]",
    ),
    click.option("--ema-decay", type=float, help="Of the weight average; 0: none.  [default: by the run's length]"),
    click.option("--clip-norm", type=float, help="Longest gradient; 0: no limit.  [default: unet 1, tutorial 0]"),
    click.option("--validate-every", type=int, help="Validate after so many epochs, and the last.  [default: 1]"),
    click.option("--patience", type=int, help="Stop after so many epochs without gain; 0: never.  [default: 0]"),
    click.option("--seed", type=int, help="Of weights, order, augmentation, dropout.  [default: 0]"),
    click.option("--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), help="[default: auto]"),
)
_MODEL = _options(
    click.option("--widths", type=Widths(), help="Channels of unet's levels.  [default: 24,48,96,192,256]"),
    click.option(
        "--stem",
        type=click.Choice(["full", "half"]),
        help="Resolution of unet's finest level.  [default: half; full with --encoder]",
    ),
    click.option("--blocks", type=int, help="Residual blocks a level of unet.  [default: 1]"),
    click.option("--norm", type=click.Choice(["batch", "group"]), help="Normalisation in unet.  [default: batch]"),
    click.option("--upsample", type=click.Choice(["bilinear", "transposed"]), help="[default: bilinear]"),
    click.option(
        "--join",
        type=click.Choice(["concat", "add"]),
        help="How unet's decoder takes in finer features.  [default: add]",
    ),
    click.option("--dropout", type=float, help="Of unet's coarsest channels.  [default: 0]"),
    click.option("--encoder", type=click.Choice(["none", "resnet18", "resnet34", "resnet50"]), help="[default: none]"),
    click.option("--pretrained/--no-pretrained", default=None, help="Start --encoder from its ImageNet weights."),
)
_RUNNING = _options(
    click.option("--device", help="auto, cpu, cuda or cuda:N.  [default: auto]"),
    click.option("--threads", type=int, help="torch's CPU threads.  [default: all cores]"),
    click.option("--prefetch", type=int, help="Batches that the loader makes ahead.  [default: 2]"),
    click.option("--engine", type=click.Choice(["auto", "dali", "torch"]), help="The loader's.  [default: auto]"),
    click.option("--compile/--no-compile", default=None, help="With torch.compile; does not pay on a CPU."),
    click.option("--checkpoint-minutes", type=float, help="last.pt within an epoch; 0: not.  [default: 5]"),
    click.option("--checkpoint-steps", type=int, help="last.pt every so many steps; 0: not.  [default: 0]"),
    click.option("--tensorboard/--no-tensorboard", default=None, help="Write TensorBoard events into the run."),
)


@click.command(cls=FriendlyCommand, context_settings={"max_content_width": 110})
@_WHAT
@_RECIPE
@_MODEL
@_RUNNING
def train(shards: Path | None, run: Path | None, resume: bool, as_json: bool, **options: Any) -> None:
    """Train a network on a shard set.

    \b
    petseg-train --shards pets-shards --run runs/pets
    petseg-train --resume --run runs/pets           after Ctrl-C, a kill, a power cut
    torchrun --nproc-per-node 4 --no-python -- petseg-train --shards pets-shards --run runs/pets

    --batch-size is the global batch. The loss of the training pictures and their IoU are those seen while training on
    them; validation uses the averaged weights. Without --resume a run that exists is never touched.
    """
    from petseg.host.distributed import world_of_environment
    from petseg.host.stop_signals import DivergedError, InterruptedRunError
    from petseg.report.artifacts import read_history
    from petseg.report.console_reporter import ConsoleReporter
    from petseg.runs.command_line import command_line
    from petseg.runs.run_folder import read_config
    from petseg.training.start import train as start

    if resume and run is None:
        raise UsageError("--resume needs --run: which run is to go on?")
    world = world_of_environment()
    try:
        path = start(
            shards,
            run=run,
            resume=resume,
            options={name: value for name, value in options.items() if value is not None},
            command=command_line("petseg-train", sys.argv[1:]),
            make_reporter=lambda: ConsoleReporter(quiet=as_json),
        )
    except (InterruptedRunError, DivergedError) as error:
        if world.first:
            raise
        sys.exit(error.exit_code)  # all ranks end together, and one of them says it
    if not world.first:
        return
    history = read_history(path)
    if as_json:
        print_json({"run": str(path), **history[-1]})
    else:
        data = str(shards or read_config(path)["running"]["shards"])
        score = command_line("petseg-eval", [str(path), "--shards", data])
        click.echo(f"run in {path}: best.pt, report.html, gallery.png; score it with: {score}")
