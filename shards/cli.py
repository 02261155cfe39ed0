"""``petseg-shard``: building, checking and inspecting shard sets. Reads arguments, calls the package, prints."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from shards.audit.findings import MAX_PIXELS
from shards.console import FriendlyGroup, PathArgument, print_json
from shards.errors import FormatError, UsageError
from shards.format.dataset import ShardSet
from shards.format.geometry import FITS
from shards.format.layout import STORAGES
from shards.format.manifest import why_missing

PATH = PathArgument()
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")


@click.group(cls=FriendlyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Pack images and masks into verified shards."""


@main.command()
@click.argument("folder", metavar="DIR", type=PATH)
@click.option("--count", type=click.IntRange(1), default=240, show_default=True, help="Number of images.")
@click.option("--seed", type=int, default=0, show_default=True, help="Same seed, same images.")
def sample(folder: Path, count: int, seed: int) -> None:
    """Generate a small synthetic pet dataset.

    It has the official layout; no network is needed.
    """
    from shards.sources.synthetic.generate import make_pets

    with progress_bar("generating") as progress:
        make_pets(folder, count=count, seed=seed, progress=progress)
    click.echo(f"{count} synthetic images in {folder}; pack them with: petseg-shard build {folder} OUT")


def parse_fractions(text: str) -> tuple[float, float, float]:
    """Read ``0.7,0.2,0.1``; raise ``UsageError`` if it is not three numbers."""
    try:
        first, second, third = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--fractions {text!r} is not of the form 0.7,0.2,0.1 (train, val, test)") from None
    return first, second, third


@main.command()
@click.argument("source", type=PATH)
@click.argument("out", type=PATH)
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
    help="official: by trainval.txt and test.txt; random: by --fractions.",
)
@click.option(
    "--fractions",
    metavar="A,B,C",
    type=parse_fractions,
    help="Train, val, test for --split random.  [default: 0.7,0.2,0.1]",
)
@click.option(
    "--val-fraction", type=float, help="Part of trainval that becomes val, for --split official.  [default: 0.2]"
)
@click.option("--seed", type=int, default=0, show_default=True, help="For the split and the order.")
@click.option("--samples-per-shard", type=int, default=128, show_default=True)
@click.option("--max-pixels", type=int, default=MAX_PIXELS, show_default=True, help="Larger images are rejected.")
@click.option("--workers", type=int, help="Processes; the result does not depend on it.  [default: all cores]")
@click.option("--strict", is_flag=True, help="Build nothing if the audit finds anything.")
@click.option("--overwrite", is_flag=True, help="Replace a finished set, as a whole.")
@JSON_OPTION
def build(
    *,
    source: Path,
    out: Path,
    labels: str | None,
    workers: int | None,
    strict: bool,
    overwrite: bool,
    as_json: bool,
    **packing: Any,
) -> None:
    """Pack SOURCE into a shard set OUT.

    SOURCE has the official layout (images/, annotations/). Every image is audited.

    To resume an interrupted build, run the same command again.
    """
    from shards.build import build_set as building
    from shards.build.options import options_from
    from shards.build.summary import build_json, build_text, finding_lines
    from shards.format.label_files import find_labels

    options = options_from(**packing, labels=None if labels is None else find_labels(labels))
    try:
        with progress_bar("packing") as progress:
            built = building.build(
                source, out, options, workers=workers, overwrite=overwrite, strict=strict, progress=progress
            )
    except building.StrictError as error:
        for line in finding_lines(error.findings):
            click.echo(line, err=True)
        raise
    if as_json:
        print_json(build_json(built))
    else:
        click.echo(build_text(built))


@main.command()
@click.argument("out", type=PATH)
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True, help="Global batch.")
@click.option("--world-size", type=click.IntRange(1), default=1, show_default=True, help="Ranks that share it.")
@JSON_OPTION
def info(out: Path, batch_size: int, world_size: int, as_json: bool) -> None:
    """Describe a shard set and its training epochs."""
    from rich.console import Console

    from shards.info import describe, print_info

    document = describe(ShardSet.open(out), batch_size=batch_size, world_size=world_size)
    if as_json:
        print_json(document)
    else:
        print_info(document, Console(markup=False, highlight=False))


@main.command()
@click.argument("out", type=PATH)
@click.option("--quick", is_flag=True, help="Sizes and structure only: instant for any number of samples.")
@click.option("--full", is_flag=True, help="Also decode every sample.")
@JSON_OPTION
def verify(out: Path, quick: bool, full: bool, as_json: bool) -> int:
    """Prove that a shard set is what was packed.

    If it is not, exit with 1 and name shard, key, member and byte offset.
    """
    from shards.cores import usable_cores
    from shards.verify.check_set import verify as check
    from shards.verify.problems import Mode

    if quick and full:
        raise UsageError("--quick and --full exclude each other")
    if not out.is_dir():
        raise FormatError(why_missing(out))
    with progress_bar("verifying") as progress:
        mode: Mode = "quick" if quick else "full" if full else "default"
        report = check(out, mode=mode, workers=usable_cores(), progress=progress)
    if as_json:
        print_json(report.as_json())
    else:
        click.echo(report.text())
    return 0 if report.ok else 1


@main.command()
@click.argument("out", type=PATH)
@click.argument("sheet", metavar="FILE.png", type=PATH)
@click.option("--split", help="train, val or test.  [default: the first one of the set]")
@click.option("--count", type=int, default=24, show_default=True, help="Number of samples.")
def preview(out: Path, sheet: Path, split: str | None, count: int) -> None:
    """Draw a contact sheet of images and masks."""
    from shards.preview import contact_sheet

    drawn = contact_sheet(ShardSet.open(out), sheet, split=split, count=count)
    click.echo(f"{drawn} samples in {sheet}")


@main.command()
@click.argument("folder", metavar="DIR", type=PATH)
@click.option("--mirror", metavar="URL", help="Download images.tar.gz and annotations.tar.gz from URL/.")
def download(folder: Path, mirror: str | None) -> None:
    """Download the real dataset (800 MB).

    Uses torchvision's addresses and checksums. Run it again to resume after an interruption.
    """
    from shards.sources import download as downloading

    if not downloading.download(folder, archives=downloading.official_archives(mirror)):
        click.echo(f"{folder} already holds the dataset")
    click.echo(f"pack it with: petseg-shard build {folder} OUT")


@contextlib.contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None] | None]:
    """Show progress on stderr if that is a terminal; provide a function of (done, total), or None."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total, refresh=True)
