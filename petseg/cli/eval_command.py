"""``petseg-eval``: scores a run on a split of a shard set."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from petseg.cli.shared_options import DEVICE, FLIP_TTA, JSON, PRECISION, RUN, SIZE, expect_folder_of
from shards.console import FriendlyCommand, PathArgument, print_json
from shards.format.layout import CLASSES

if TYPE_CHECKING:
    from petseg.inference.evaluation import Evaluation


@click.command(cls=FriendlyCommand)
@RUN
@click.option("--shards", type=PathArgument(), required=True, help="The shard set.")
@click.option("--split", default="test", show_default=True, help="Which of its splits.")
@click.option("--batch-size", type=int, default=32, show_default=True, help="Does not influence the scores.")
@click.option(
    "--original-resolution",
    "--own-size",
    "original_resolution",
    is_flag=True,
    help="Compare at the images' original resolution, not at the network's.",
)
@FLIP_TTA
@click.option("--csv", "table", type=PathArgument(), help="Write a table with one line per image.")
@SIZE
@DEVICE
@PRECISION
@JSON
def evaluate(*, run: Path, shards: Path, table: Path | None, as_json: bool, **options: Any) -> None:
    """Score RUN (a run's folder, or a checkpoint) on a split: every sample once, one confusion matrix.

    \b
    petseg-eval runs/pets --shards pets-shards --split test
    torchrun --nproc-per-node 4 --no-python -- petseg-eval runs/pets --shards pets-shards
    """
    if table is not None:
        expect_folder_of(table, option="--csv")
    from petseg.host.distributed import world_from_environment
    from petseg.inference.scoring import evaluate as evaluate_run
    from petseg.inference.scoring import summary, write_table
    from petseg.report.console_reporter import progress_count

    world = world_from_environment()
    with progress_count("images scored", quiet=not world.first) as advance:
        evaluation = evaluate_run(run, shards, world=world, after_batch=advance, **options)
    if not world.first:
        return
    if table is not None:
        write_table(evaluation, shards, options["split"], table)
    conditions = {name: options[name] for name in ("split", "original_resolution", "flip_tta")}
    if as_json:
        print_json(summary(evaluation, **conditions))
    else:
        _print_scores(evaluation, **conditions)


def _print_scores(evaluation: "Evaluation", *, split: str, original_resolution: bool, flip_tta: bool) -> None:
    scores = evaluation.scores
    resolution = "the images' original resolution" if original_resolution else "the network's size"
    click.echo(f"{evaluation.samples} images of {split}, at {resolution}{', with flip TTA' if flip_tta else ''}")
    click.echo(f"{'':12}{'IoU':>8}{'Dice':>8}{'recall':>8}")
    for name, *values in zip(CLASSES, scores.iou, scores.dice, scores.accuracy, strict=True):
        click.echo(f"{name:12}" + "".join(f"{_number(value):>8}" for value in values))
    click.echo(f"{'mean':12}{_number(scores.mean_iou):>8}{_number(scores.mean_dice):>8}")
    click.echo(f"pixel accuracy {_number(scores.pixel_accuracy)}")
    click.echo(
        f"animal against background: IoU {_number(scores.binary.border_as_animal)} with the border counted as animal, "
        f"{_number(scores.binary.border_ignored)} with the border's pixels ignored"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
