"""``petseg-shard build``: a source becomes a shard set."""

from pathlib import Path
from typing import Any

import click

from shards.audit.findings import MAX_PIXELS
from shards.audit.orientation import EXIF_MODES
from shards.cli.layout_options import layout_options
from shards.console import JSON_OPTION, PLACE, print_json, progress_bar, say
from shards.errors import UsageError
from shards.format.geometry import FITS
from shards.format.layout import STORAGES


def parse_fractions(text: str) -> tuple[float, float, float]:
    """Read ``0.7,0.2,0.1``; raise ``UsageError`` if it is not three numbers."""
    try:
        first, second, third = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--fractions {text!r} is not of the form 0.7,0.2,0.1 (train, val, test)") from None
    return first, second, third


@click.command()
@click.argument("source", type=PLACE)
@click.argument("out", type=PLACE)
@layout_options
@click.option(
    "--storage",
    type=click.Choice(STORAGES),
    default="source",
    show_default=True,
    help="source: original files; jpeg: small JPEGs; raw: pixels, no decoding.",
)
@click.option("--labels", metavar="NAME|FILE.toml", help="The classes: built in, or a file.  [default: the layout's]")
@click.option("--size", metavar="N|HxW", help="Size of what is stored in pixels, for jpeg and raw.  [default: 128]")
@click.option("--fit", type=click.Choice(FITS), help="How images are brought to --size.  [default: stretch]")
@click.option("--quality", type=int, help="JPEG quality 1..100, for jpeg storage.  [default: 90]")
@click.option(
    "--split",
    type=click.Choice(["official", "random"]),
    default="official",
    show_default=True,
    help="official: as the lists or folders say; random: by --fractions.",
)
@click.option(
    "--fractions",
    metavar="A,B,C",
    type=parse_fractions,
    help="Train, val, test for --split random.  [default: 0.7,0.2,0.1]",
)
@click.option(
    "--val-fraction",
    type=float,
    help="Part of the training images that becomes val, for --split official without val.  [default: 0.2]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="For the split and the order.")
@click.option(
    "--shard-bytes",
    metavar="N|N kB|MB|GB",
    help="Size of a tar, about; small splits have smaller ones.  [default: 256MB]",
)
@click.option("--samples-per-shard", type=int, help="Samples in a tar, instead of --shard-bytes.")
@click.option("--max-pixels", type=int, default=MAX_PIXELS, show_default=True, help="Larger images are rejected.")
@click.option(
    "--exif",
    type=click.Choice(EXIF_MODES),
    default="auto",
    show_default=True,
    help="EXIF rotation of images. auto: what the mask fits, none where it fits both ways; apply; ignore.",
)
@click.option("--workers", type=int, help="Processes; the result does not depend on it.  [default: all cores]")
@click.option("--executor", metavar="ENGINE", help="Have a cluster's workers build: dask:ADDRESS, ray or ray:ADDRESS.")
@click.option("--task", metavar="K|auto", help="Build this task's shards, of N, from 0; then petseg-shard join OUT.")
@click.option("--tasks", type=int, metavar="N", help="Number of tasks.  [default: the cluster's, see docs/cluster.md]")
@click.option("--strict", is_flag=True, help="Build nothing if the audit finds anything, even a warning.")
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace a finished set, as a whole; with tasks, and in a store, discard unfinished work of other options.",
)
@JSON_OPTION
def build(
    *,
    source: Path | str,
    out: Path | str,
    layout: str,
    image_suffix: str | None,
    mask_suffix: str | None,
    labels: str | None,
    workers: int | None,
    executor: str | None,
    task: str | None,
    tasks: int | None,
    strict: bool,
    overwrite: bool,
    as_json: bool,
    **packing: Any,
) -> None:
    """Pack SOURCE into a shard set OUT.

    SOURCE is a folder of images and masks, or a .csv file that lists them. SOURCE and OUT may be addresses in an
    object store (s3://, gs://, az://).

    Layouts: pets (images, annotations/trimaps), voc (JPEGImages, SegmentationClass), cityscapes (leftImg8bit, gtFine),
    ade20k (images, annotations), csv (columns image, mask, split), folders (images and masks under any usual names).

    Labels: which values or colours of the masks stand for which classes. A file, see petseg-shard labels, or built in:
    pets, binary, voc, cityscapes, cityscapes-train-ids, ade20k.

    Several machines build a set together by tasks (--task, --tasks) or as the workers of a cluster (--executor); the
    bytes are those of one machine. See docs/cluster.md.

    Every image is audited. To resume an interrupted build, run the same command again.
    """
    from shards.build import build_set as building
    from shards.build.engines.open_executor import check_executor
    from shards.build.options import options_from
    from shards.build.outcome.build_result import StrictError
    from shards.build.staging import BusyError
    from shards.build.tasks.scheduler_variables import in_a_cluster, task_number
    from shards.build.tasks.task_build import build_task
    from shards.cli.build_summary import build_json, build_text, finding_lines
    from shards.cli.task_summary import task_json, task_text
    from shards.format.label_files import find_labels
    from shards.sources.choose_layout import scan

    number = task_number(task, tasks)
    check_executor(executor)
    if number is not None and strict:
        raise UsageError("--strict is for the whole set: give it to petseg-shard join")
    options = options_from(**packing, labels=None if labels is None else find_labels(labels))
    found = scan(source, layout=layout, image_suffix=image_suffix, mask_suffix=mask_suffix)
    common: dict[str, Any] = {"workers": workers, "executor": executor, "overwrite": overwrite}
    if number is not None:
        with progress_bar(f"packing, task {number.task} of {number.tasks}") as progress:
            done = build_task(found, out, options, number=number, progress=progress, **common)
        if as_json:
            print_json(task_json(done))
        else:
            click.echo(task_text(done))
        return
    try:
        with progress_bar("packing") as progress:
            built = building.build(found, out, options, strict=strict, progress=progress, **common)
    except StrictError as error:
        say(*finding_lines(error.findings), err=True)
        raise
    except BusyError as error:
        if (variable := in_a_cluster()) is not None:
            raise BusyError(f"{error}; {variable} is set: to build this task's shards only, give --task auto") from None
        raise
    if as_json:
        print_json(build_json(built))
    else:
        click.echo(build_text(built))
