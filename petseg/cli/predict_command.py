"""``petseg-predict``: segments image files."""

from pathlib import Path
from typing import Any

import click

from petseg.cli.shared_options import DEVICE, FLIP_TTA, JSON, PRECISION, RUN, SIZE
from shards.console import FriendlyCommand, PathArgument, print_json
from shards.errors import PetsegError


@click.command(cls=FriendlyCommand)
@RUN
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("-o", "--out", type=PathArgument(), required=True, help="Folder for the results.")
@click.option("--overlay/--no-overlay", default=True, show_default=True, help="Also write NAME.overlay.png.")
@click.option("--probabilities", is_flag=True, help="Also write NAME.probabilities.npz: float32 (3, H, W).")
@click.option("--overwrite", is_flag=True, help="Replace existing results.")
@click.option("--batch-size", type=int, default=8, show_default=True, help="Images per batch.")
@FLIP_TTA
@SIZE
@DEVICE
@PRECISION
@JSON
def predict(
    *,
    run: Path,
    images: tuple[str, ...],
    out: Path,
    overlay: bool,
    probabilities: bool,
    overwrite: bool,
    batch_size: int,
    flip_tta: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Segment IMAGEs (files, folders, or globs in quotes) with RUN, at their original resolution.

    cat.jpg becomes cat.png, an indexed image with the values 1 (animal), 2 (background) and 3 (border), and
    cat.overlay.png for viewing. An image that cannot be read is reported, the others are predicted, and the exit code
    is 1.

    \b
    petseg-predict runs/pets cat.jpg holiday/ 'more/*.png' -o masks
    """
    if batch_size < 1:
        raise click.BadParameter("give a number from 1", param_hint="--batch-size")
    from petseg.inference.file_jobs import plan_jobs, predict_files
    from petseg.inference.image_files import find_images
    from petseg.inference.trained_network import load
    from petseg.report.console_reporter import progress_count

    files, ignored = find_images(images)
    jobs = plan_jobs(files, out, overlays=overlay, probabilities=probabilities, overwrite=overwrite)
    predictor = load(run, **options)
    out.mkdir(parents=True, exist_ok=True)
    with progress_count("images predicted", total=len(jobs)) as advance:
        failures = predict_files(
            predictor,
            jobs,
            batch_size=batch_size,
            flip_tta=flip_tta,
            on_error=lambda error: click.echo(f"skipped: {error}", err=True),
            on_done=lambda job: advance(1),
        )
    predicted = len(jobs) - failures
    if as_json:
        print_json({"predicted": predicted, "failed": failures, "ignored": ignored, "folder": str(out)})
    else:
        click.echo(f"{predicted} images predicted into {out}" + (f", {ignored} other files ignored" if ignored else ""))
    if failures:
        raise PetsegError(f"{failures} of {len(jobs)} images could not be read")
