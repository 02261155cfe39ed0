"""The commands petseg-train, petseg-eval, petseg-predict and petseg-export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from petseg.cli.train_command import train
from petseg.host.openmp import configure_openmp
from shards.console import FriendlyCommand, PathArgument, print_json
from shards.errors import PetsegError

if TYPE_CHECKING:
    from petseg.inference.evaluation import Evaluation

__all__ = ["evaluate", "export", "predict", "train"]

configure_openmp()  # torch is imported later, by the commands

_RUN = click.argument("run", type=PathArgument())
_SIZE = click.option("--size", type=int, help="Side of the network's pictures.  [default: as trained]")
_DEVICE = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
_PRECISION = click.option(
    "--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), default="auto", show_default=True
)
_MIRROR = click.option("--mirror", is_flag=True, help="Average with the mirrored pictures' predictions.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.command(cls=FriendlyCommand)
@_RUN
@click.option("--shards", type=PathArgument(), required=True, help="The shard set.")
@click.option("--split", default="test", show_default=True, help="Which of its splits.")
@click.option("--batch-size", type=int, default=32, show_default=True, help="Without influence on the scores.")
@click.option("--own-size", is_flag=True, help="Compare at the pictures' own size, not at the network's.")
@_MIRROR
@click.option("--csv", "table", type=PathArgument(), help="Write a table with one line a picture.")
@_SIZE
@_DEVICE
@_PRECISION
@_JSON
def evaluate(
    *,
    run: Path,
    shards: Path,
    split: str,
    batch_size: int,
    own_size: bool,
    mirror: bool,
    table: Path | None,
    size: int | None,
    device: str,
    precision: str,
    as_json: bool,
) -> None:
    """Score RUN (a run's folder, or a checkpoint) on a split: every sample once, one confusion matrix.

    \b
    petseg-eval runs/pets --shards pets-shards --split test
    torchrun --nproc-per-node 4 --no-python -- petseg-eval runs/pets --shards pets-shards
    """
    if table is not None:
        _expect_folder_of(table, option="--csv")
    from petseg.host.distributed import world_from_environment
    from petseg.inference.score_run import score_run, summary, write_table
    from petseg.report.console_reporter import counting

    world = world_from_environment()
    with counting("pictures scored", quiet=not world.first) as advance:
        evaluation = score_run(
            run,
            shards,
            split=split,
            size=size,
            own_size=own_size,
            mirror=mirror,
            batch_size=batch_size,
            device=device,
            precision=precision,
            world=world,
            after_batch=advance,
        )
    if not world.first:
        return
    if table is not None:
        write_table(evaluation, shards, split, table)
    if as_json:
        print_json(summary(evaluation, split=split, own_size=own_size, mirror=mirror))
    else:
        size_text = "the pictures' own size" if own_size else "the network's size"
        mirror_text = ", averaged with the mirrored pictures' predictions" if mirror else ""
        _print_scores(evaluation, split=split, how=f"at {size_text}{mirror_text}")


def _expect_folder_of(file: Path, *, option: str) -> None:
    """Refuse a file that cannot be written before hours are spent on what goes into it."""
    if not file.parent.is_dir():
        raise click.BadParameter(f"there is no folder {file.parent} to write {file.name} into", param_hint=option)
    if file.is_dir():
        raise click.BadParameter(f"{file} is a folder; name a file", param_hint=option)


def _print_scores(evaluation: Evaluation, *, split: str, how: str) -> None:
    from petseg.inference.metrics import CLASS_NAMES

    scores = evaluation.scores
    click.echo(f"{evaluation.samples} pictures of {split}, {how}")
    click.echo(f"{'':12}{'IoU':>8}{'Dice':>8}{'accuracy':>10}")
    for name, *values in zip(CLASS_NAMES, scores.iou, scores.dice, scores.accuracy, strict=True):
        iou, dice, accuracy = map(_number, values)
        click.echo(f"{name:12}{iou:>8}{dice:>8}{accuracy:>10}")
    all_pixels = _number(scores.pixel_accuracy)
    click.echo(f"{'mean':12}{_number(scores.mean_iou):>8}{_number(scores.mean_dice):>8}{all_pixels:>10} of all pixels")
    click.echo(
        f"animal against background: IoU {_number(scores.binary.border_as_animal)} with the border counted as animal, "
        f"{_number(scores.binary.border_ignored)} with the border's pixels left out"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


@click.command(cls=FriendlyCommand)
@_RUN
@click.argument("pictures", nargs=-1, required=True, metavar="PICTURE...")
@click.option("-o", "--out", type=PathArgument(), required=True, help="Folder for the results.")
@click.option("--overlay/--no-overlay", default=True, show_default=True, help="Also write NAME.overlay.png.")
@click.option("--probabilities", is_flag=True, help="Also write NAME.probabilities.npz: float32 (3, H, W).")
@click.option("--overwrite", is_flag=True, help="Replace results that are there already.")
@click.option("--batch-size", type=int, default=8, show_default=True, help="Pictures at a time.")
@_MIRROR
@_SIZE
@_DEVICE
@_PRECISION
@_JSON
def predict(
    *,
    run: Path,
    pictures: tuple[str, ...],
    out: Path,
    overlay: bool,
    probabilities: bool,
    overwrite: bool,
    batch_size: int,
    mirror: bool,
    size: int | None,
    device: str,
    precision: str,
    as_json: bool,
) -> None:
    """Segment PICTUREs (files, folders, or globs in quotes) with RUN, at their own resolution.

    cat.jpg becomes cat.png, an indexed picture with the values 1 (animal), 2 (background) and 3 (border), and
    cat.overlay.png for the eye. A picture that cannot be read is told, the others are done, and the exit code is 1.

    \b
    petseg-predict runs/pets cat.jpg holiday/ 'more/*.png' -o masks
    """
    from petseg.inference.predict_files import find_pictures, plan_jobs, predict_files

    if batch_size < 1:
        raise click.BadParameter("give a number from 1", param_hint="--batch-size")
    found = find_pictures(pictures)
    jobs = plan_jobs(found.pictures, out, overlays=overlay, probabilities=probabilities, overwrite=overwrite)
    from petseg.inference.predictor import load

    predictor = load(run, device=device, precision=precision, size=size)  # type: ignore[arg-type]
    out.mkdir(parents=True, exist_ok=True)
    from petseg.report.console_reporter import counting

    with counting("pictures predicted", total=len(jobs)) as advance:
        failures = predict_files(
            predictor,
            jobs,
            batch_size=batch_size,
            mirror=mirror,
            failed=lambda error: click.echo(f"left out: {error}", err=True),
            done=lambda job: advance(1),
        )
    if as_json:
        print_json(
            {"predicted": len(jobs) - failures, "failed": failures, "left_out": found.left_out, "folder": str(out)}
        )
    else:
        others = f", {found.left_out} other files left alone" if found.left_out else ""
        click.echo(f"{len(jobs) - failures} pictures predicted into {out}{others}")
    if failures:
        raise PetsegError(f"{failures} of {len(jobs)} pictures could not be read")


@click.command(cls=FriendlyCommand)
@_RUN
@click.argument("file", type=PathArgument())
@_SIZE
@_JSON
def export(run: Path, file: Path, size: int | None, as_json: bool) -> None:
    """Write RUN's network to FILE: as ONNX (FILE.onnx), or its weights with a model card (FILE.safetensors, FILE.md).

    The ONNX network takes uint8 pictures as they are, any number at once.

    \b
    petseg-export runs/pets pets.onnx
    petseg-export runs/pets pets.safetensors
    """
    _expect_folder_of(file, option="FILE")
    from petseg.inference.predictor import load

    predictor = load(run, device="cpu", precision="fp32", size=size)
    if file.suffix == ".safetensors":
        from petseg.exporters.safetensors_weights import export_weights

        card = export_weights(predictor, file)
        if as_json:
            print_json({"file": str(file), "bytes": file.stat().st_size, "card": str(card)})
        else:
            click.echo(f"{file}: {file.stat().st_size:,} bytes; its model card is {card}")
        return
    from petseg.exporters.onnx_model import export_onnx

    exported = export_onnx(predictor, file)
    if as_json:
        print_json({"file": str(file), "bytes": exported.bytes, "largest_difference": exported.largest_difference})
    else:
        click.echo(
            f"{file}: {exported.bytes:,} bytes; onnxruntime's logits differ from torch's by at most "
            f"{exported.largest_difference:.1e}"
        )
