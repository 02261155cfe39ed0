"""``petseg-predict``: segments image files."""

from pathlib import Path
from typing import Any

import click

from petseg.cli.shared_options import DEVICE, FLIP_TTA, HELP, JSON, OVERLAP, PRECISION, RUN, SCALES, SIZE, WINDOW
from shards.console import FriendlyCommand, PathArgument, print_json, say
from shards.errors import PetsegError, TerminatedError, counted, describe_os_error, work_is_done


@click.command(cls=FriendlyCommand, context_settings=HELP)
@RUN
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("-o", "--out", type=PathArgument(), required=True, help="Folder for the results.")
@click.option("--recursive", is_flag=True, help="Search folders with their subfolders, and keep these in the results.")
@click.option("--overlay/--no-overlay", default=True, show_default=True, help="Also write NAME.overlay.png.")
@click.option("--probabilities", is_flag=True, help="Also write NAME.probabilities.npz: float32 (classes, H, W).")
@click.option("--overwrite", is_flag=True, help="Replace existing results; what is no result is an error.")
@click.option(
    "--skip-existing",
    is_flag=True,
    help="Leave out images that have results, to go on after a stop: with the same RUN, options and images.",
)
@click.option("--batch-size", type=int, default=8, show_default=True, help="Images per batch.")
@WINDOW
@OVERLAP
@SCALES
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
    recursive: bool,
    overlay: bool,
    probabilities: bool,
    overwrite: bool,
    skip_existing: bool,
    batch_size: int,
    window: Any,
    overlap: float | None,
    scales: tuple[float, ...],
    flip_tta: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Segment IMAGEs (files, folders, or globs in quotes) with RUN, at their original resolution.

    cat.jpg becomes cat.png, a mask like those that RUN was trained on: an indexed image with the same value for each
    class and its colour in the palette (pets: 1 animal, 2 background, 3 border), or an RGB image in the same colours;
    and cat.overlay.png for viewing, with a legend below from a width of 160 pixels. A cat.png beside cat.jpg becomes
    cat.png.png. Such results among the images of a folder or glob are left out. Masks for training are images like
    others: where a folder holds photos and masks, give a glob of the photos. An image that cannot be read is reported,
    the others are predicted, and the exit code is 1.

    \b
    petseg-predict runs/pets cat.jpg holiday/ 'more/*.png' -o masks
    petseg-predict runs/pets photos/ --recursive -o masks    # photos/2026/cat.jpg: masks/2026/cat.png
    petseg-predict runs/pets 'street/*.jpg' -o masks    # not the masks street/*_mask.png
    petseg-predict runs/city aerial.tif --window 512 -o masks    # large images, in little memory
    """
    if batch_size < 1:
        raise click.BadParameter("give a number from 1", param_hint="--batch-size")
    from petseg.inference.files.existing_results import FileJob
    from petseg.inference.files.file_jobs import origin_of, plan_jobs, predict_files
    from petseg.inference.files.image_files import find_images, subfolders_not_searched
    from petseg.inference.network_inputs import InferenceOptions
    from petseg.inference.trained_network import load
    from petseg.report.console_reporter import progress_count

    inference = InferenceOptions.of(window=window, overlap=overlap, scales=scales, flip_tta=flip_tta)
    files, ignored, results = find_images(images, recursive=recursive, skip=out)
    existing = {"overwrite": overwrite, "skip_existing": skip_existing}
    predictor = load(run, **options)
    used = predictor.window(inference)
    origin = origin_of(predictor, inference)
    jobs, skipped, unmarked = plan_jobs(
        files, out, overlays=overlay, probabilities=probabilities, origin=origin, **existing
    )
    not_searched = 0 if recursive else subfolders_not_searched(images, skip=out)
    out.mkdir(parents=True, exist_ok=True)
    if advice := predictor.window_advice(inference):
        say(advice, err=True)
    for job in jobs:
        if job.renamed:
            say(f"{job.image} becomes {job.outputs[0]}: another image has the shorter name", err=True)
    written: list[FileJob] = []
    padded: list[FileJob] = []

    def count(job: FileJob) -> None:
        written.append(job)
        advance(1)

    try:
        with progress_count("images predicted", total=len(jobs)) as advance:
            failures = predict_files(
                predictor,
                jobs,
                batch_size=batch_size,
                options=inference,
                on_error=lambda error: say(f"skipped: {error}", err=True),
                on_done=count,
                on_padded=padded.append,
            )
    except (KeyboardInterrupt, OSError, PetsegError, TerminatedError) as error:
        if not written:
            raise
        again = "keep --overwrite" if overwrite else "keep --skip-existing" if skip_existing else "add --skip-existing"
        raise _told(
            error, f"{counted(len(written), 'image')} predicted into {out}", f"run it again and {again}"
        ) from None
    predicted = len(jobs) - failures
    renamed = {str(job.image): str(job.outputs[0]) for job in jobs if job.renamed}
    done = f"{counted(predicted, 'image')} predicted into {out}"
    facts: dict[str, Any] = {"predicted": predicted, "failed": failures, "skipped": skipped, "ignored": ignored}
    facts |= {"results": results, "unmarked": unmarked, "padded": len(padded)}
    network = {"size": predictor.size, "precision": predictor.placement.precision}
    with work_is_done(done):
        if as_json:
            print_json({**facts, "renamed": renamed, "folder": str(out), **network, **inference.facts(used)})
        else:
            others = _others(not_searched=not_searched, **facts)
            say(f"{done}{inference.text(used)}{others}")
    if failures:
        raise PetsegError(f"{failures} of {counted(len(jobs), 'image')} could not be predicted")


def _told(error: BaseException, kept: str, again: str) -> BaseException:
    """Return an error that ended the command when it had results, with what is kept and how to go on."""
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        text = describe_os_error(error, again=again)
        return PetsegError(f"{text}; {kept}" + ("" if again in text else f"; to go on, {again}"))
    error.add_note(f"{kept}; to go on, {again}")
    return error


def _others(
    *, padded: int, skipped: int, unmarked: int, ignored: int, results: int, not_searched: int, **_: int
) -> str:
    """Return what else is said of the images and files, each only where there are any."""
    text = f", {counted(padded, 'image')} padded, being smaller than a window" if padded else ""
    text += f", {counted(skipped, 'image')} that had results skipped" if skipped else ""
    text += f" ({unmarked:,} of them with results that do not say which network made them)" if unmarked else ""
    text += f", {counted(ignored, 'other file')} ignored" if ignored else ""
    text += f", {counted(results, 'result')} of earlier predictions left out" if results else ""
    return text + (f", {counted(not_searched, 'subfolder')} not searched (--recursive)" if not_searched else "")
