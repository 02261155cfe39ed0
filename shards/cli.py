"""``petseg-shard``: from a folder of pictures to a shard set, and looking at it. Reads arguments, calls, prints."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import click

from shards.console import FriendlyGroup, PathArgument, print_json
from shards.errors import FormatError, UsageError

PATH = PathArgument()
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")


@click.group(cls=FriendlyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Pack pictures and trimaps into shards that can be trusted."""


@main.command()
@click.argument("folder", metavar="DIR", type=PATH)
@click.option("--count", type=click.IntRange(1), default=240, show_default=True, help="Number of pictures.")
@click.option("--seed", type=int, default=0, show_default=True, help="Same seed, same pictures.")
def sample(folder: Path, count: int, seed: int) -> None:
    """Draw a small made-up pet dataset, offline.

    It is in the official layout.
    """
    from shards.sources.synthetic.generate import make_pets

    with progress_bar("drawing") as progress:
        make_pets(folder, count=count, seed=seed, progress=progress)
    click.echo(f"{count} made-up pictures in {folder}; pack them with: petseg-shard build {folder} OUT")


@main.command()
@click.argument("source", type=PATH)
@click.argument("out", type=PATH)
@click.option(
    "--storage",
    type=click.Choice(["source", "jpeg", "raw"]),
    default="source",
    show_default=True,
    help="source: original files; jpeg: small JPEGs; raw: pixels, no decoding.",
)
@click.option("--size", type=int, help="Side of the stored square in pixels, for jpeg and raw.  [default: 128]")
@click.option("--quality", type=int, help="JPEG quality 1..100, for jpeg storage.  [default: 90]")
@click.option(
    "--split",
    type=click.Choice(["official", "random"]),
    default="official",
    show_default=True,
    help="official: by trainval.txt and test.txt; random: by --fractions.",
)
@click.option("--fractions", metavar="A,B,C", help="Train, val, test for --split random.  [default: 0.7,0.2,0.1]")
@click.option(
    "--val-fraction", type=float, help="Part of trainval that becomes val, for --split official.  [default: 0.2]"
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the split and the order.")
@click.option("--samples-per-shard", type=int, default=128, show_default=True)
@click.option("--workers", type=int, help="Processes; the bytes do not depend on it.  [default: all cores]")
@click.option("--strict", is_flag=True, help="Build nothing if the audit finds anything.")
@click.option("--overwrite", is_flag=True, help="Replace a finished set, as a whole.")
@JSON_OPTION
def build(
    *,
    source: Path,
    out: Path,
    storage: str,
    size: int | None,
    quality: int | None,
    split: str,
    fractions: str | None,
    val_fraction: float | None,
    seed: int,
    samples_per_shard: int,
    workers: int | None,
    strict: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Pack SOURCE into a shard set OUT.

    SOURCE is in the official layout (images/, annotations/). Every picture is audited.

    A build that was cut off goes on where it was when the same command is run again.
    """
    from shards.build import build_set as building
    from shards.build.options import options_from
    from shards.build.summary import build_json, build_text, finding_lines

    options = options_from(
        storage=storage,
        size=size,
        quality=quality,
        split=split,
        fractions=parse_fractions(fractions),
        val_fraction=val_fraction,
        seed=seed,
        samples_per_shard=samples_per_shard,
    )
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
    """Describe a shard set, and what training will see of it."""
    from rich.console import Console

    from shards.format.dataset import ShardSet
    from shards.info import describe, print_info

    document = describe(ShardSet.open(out), batch_size=batch_size, world_size=world_size)
    if as_json:
        print_json(document)
    else:
        print_info(document, Console(markup=False, highlight=False))


@main.command()
@click.argument("out", type=PATH)
@click.option("--quick", is_flag=True, help="Sizes and structure only: instant, whatever the number of samples.")
@click.option("--full", is_flag=True, help="Decode every sample, too.")
@JSON_OPTION
def verify(out: Path, quick: bool, full: bool, as_json: bool) -> int:
    """Prove that a shard set is what was packed.

    Exit 1, naming shard, key, member and byte offset, where it is not.
    """
    from shards.build.executors import default_workers
    from shards.format.manifest import why_missing
    from shards.verify.check_set import verify as check

    if quick and full:
        raise UsageError("--quick and --full exclude each other")
    if not out.is_dir():
        raise FormatError(why_missing(out))
    with progress_bar("verifying") as progress:
        mode: Literal["quick", "default", "full"] = "quick" if quick else "full" if full else "default"
        report = check(out, mode=mode, workers=default_workers(), progress=progress)
    if as_json:
        print_json(report.as_json())
    else:
        click.echo(report.text())
    return 0 if report.ok else 1


@main.command()
@click.argument("out", type=PATH)
@click.argument("sheet", metavar="FILE.png", type=PATH)
@click.option("--split", help="train, val or test.  [default: the first there is]")
@click.option("--count", type=int, default=24, show_default=True, help="Number of samples.")
def preview(out: Path, sheet: Path, split: str | None, count: int) -> None:
    """Draw a contact sheet of pictures and trimaps."""
    from shards.format.dataset import ShardSet
    from shards.preview import contact_sheet

    drawn = contact_sheet(ShardSet.open(out), sheet, split=split, count=count)
    click.echo(f"{drawn} samples in {sheet}")


@main.command()
@click.argument("folder", metavar="DIR", type=PATH)
@click.option("--mirror", metavar="URL", help="Take images.tar.gz and annotations.tar.gz from URL/.")
def download(folder: Path, mirror: str | None) -> None:
    """Get the real dataset (800 MB).

    Through torchvision, with its checksums. Run it again to go on after an interruption.
    """
    from shards.sources import download as downloading

    if mirror is not None:
        downloading.check_mirror(mirror)
    archives = downloading.official_archives()
    if mirror is not None:
        archives = downloading.at_mirror(archives, mirror)
    if not downloading.download(folder, archives=archives):
        click.echo(f"{folder} holds the dataset already")
    click.echo(f"pack it with: petseg-shard build {folder} OUT")


def parse_fractions(text: str | None) -> tuple[float, float, float] | None:
    """Read ``0.7,0.2,0.1``.

    Raises:
        UsageError: not three numbers.
    """
    if text is None:
        return None
    try:
        first, second, third = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--fractions {text!r} is not of the form 0.7,0.2,0.1 (train, val, test)") from None
    return first, second, third


@contextlib.contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None] | None]:
    """Show progress on stderr where that is a terminal; provide None elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False)
    with bar:
        task = bar.add_task(label, total=None)

        def update(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)
            bar.refresh()

        yield update
