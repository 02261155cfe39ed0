"""``petseg-shard sample``, ``download`` and ``labels``: where a source comes from, and what its masks hold."""

import contextlib
import re
import shlex
from pathlib import Path

import click

from shards.cli.layout_options import layout_options
from shards.console import JSON_OPTION, PATH, print_json, progress_bar, say
from shards.errors import UsageError, counted, work_is_done


@click.command()
@click.argument("folder", metavar="DIR", type=PATH)
@click.option("--count", type=click.IntRange(1), default=240, show_default=True, help="Number of images.")
@click.option("--seed", type=int, default=0, show_default=True, help="Same seed, same images.")
@click.option("--layout", default="pets", show_default=True, metavar="NAME", help="How it is laid out; see build.")
@click.option("--classes", type=int, metavar="N", help="Number of classes.  [default: the layout's]")
@click.option("--masks", default="index", show_default=True, metavar="KIND", help="Or binary, rgb (folders, csv).")
def sample(*, folder: Path, count: int, seed: int, layout: str, classes: int | None, masks: str) -> None:
    """Generate a small synthetic pet dataset; no network is needed.

    It has the official layout and classes, or those of --layout. Where the classes are not those of a well-known
    dataset, labels.toml in DIR names them.
    """
    from shards.sources.synthetic.generate import make_pets
    from shards.sources.synthetic.layout_writers import LABELS_FILE

    with progress_bar("generating") as progress:
        make_pets(folder, count=count, seed=seed, layout=layout, classes=classes, masks=masks, progress=progress)
    own = folder / LABELS_FILE
    options = ["--labels", str(own)] if own.exists() else []
    command = shlex.join(["petseg-shard", "build", str(folder), "OUT", *options])
    with work_is_done(f"the dataset in {folder} is complete"):
        say(f"{counted(count, 'synthetic image')} in {folder}; pack {'it' if count == 1 else 'them'} with: {command}")


@click.command()
@click.argument("folder", metavar="DIR", type=PATH)
@click.option("--mirror", metavar="URL", help="Download images.tar.gz and annotations.tar.gz from URL/.")
def download(folder: Path, mirror: str | None) -> None:
    """Download the real dataset (800 MB).

    Uses torchvision's addresses and checksums. Run it again to resume after an interruption.
    """
    from shards.sources import download as downloading

    if not downloading.download(folder, archives=downloading.official_archives(mirror)):
        say(f"{folder} already holds the dataset")
    say(f"pack it with: petseg-shard build {shlex.quote(str(folder))} OUT")


@click.command()
@click.argument("source", type=PATH)
@layout_options
@click.option("-o", "--output", metavar="FILE.toml", type=PATH, help="Write a labels file to edit.")
@click.option("--overwrite", is_flag=True, help="Replace the labels file.")
@click.option("--workers", type=int, help="Threads.  [default: all cores]")
@JSON_OPTION
def labels(
    *,
    source: Path,
    layout: str,
    image_suffix: str | None,
    mask_suffix: str | None,
    output: Path | None,
    overwrite: bool,
    workers: int | None,
    as_json: bool,
) -> None:
    """List the values or colours in the masks of SOURCE.

    It says how many masks and how many pixels hold each of them.
    With -o it writes a labels file for petseg-shard build --labels. Which class a value stands for is not guessed: the
    classes have placeholders for names, to be edited.
    """
    from shards.format.readers.output_places import expect_ending, expect_free
    from shards.sources import scan
    from shards.sources.survey import is_binary, labels_template, split_options, survey_json, survey_masks, survey_text
    from shards.store.atomic import write_atomically

    if overwrite and output is None:
        raise UsageError("--overwrite needs -o FILE.toml")
    if output is not None:  # before anything is counted
        expect_free(output, overwrite=overwrite, read=source)
        expect_ending(output, ".toml")
    if re.match(r"[a-z0-9]+:/", str(source)):  # what a Path leaves of s3://bucket/folder
        raise UsageError("petseg-shard labels reads folders only; copy the masks to one, and list their values there")
    found = scan(source, layout=layout, image_suffix=image_suffix, mask_suffix=mask_suffix)
    with progress_bar("reading masks") as progress:
        survey = survey_masks(found, workers=workers, progress=progress)
    if output is not None:
        write_atomically(output, labels_template(survey), replace=overwrite)
    with contextlib.nullcontext() if output is None else work_is_done(f"{output} is written"):
        if as_json:
            print_json(survey_json(survey))
            return
        click.echo(survey_text(survey))
        suffixes = {"--layout": layout, "--image-suffix": image_suffix, "--mask-suffix": mask_suffix}
        given = [f"{name}={value}" for name, value in suffixes.items() if value not in (None, "auto")]
        if output is not None:
            command = ["petseg-shard", "build", str(source), "OUT", "--labels", str(output), *given]
            command += split_options(found)
            edit = f"only to name the classes yourself, edit {output}" if is_binary(survey) else f"edit {output}"
            say(f"{edit}, then: {shlex.join(command)}")
        elif found.labels is None or survey.unclaimed:
            command = ["petseg-shard", "labels", str(source), *given, "-o", "labels.toml"]
            what = "only to name the classes yourself, write" if is_binary(survey) else "write"
            say(f"{what} a labels file to edit with: {shlex.join(command)}")
