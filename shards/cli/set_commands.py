"""``petseg-shard info``, ``verify`` and ``preview``: what is done with a finished set."""

from pathlib import Path

import click

from shards.console import JSON_OPTION, PATH, PLACE, print_json, progress_bar, say, stdout_console
from shards.errors import FormatError, UsageError, counted, work_is_done
from shards.format.dataset import ShardSet
from shards.format.manifest import why_missing


@click.command()
@click.argument("out", type=PLACE)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    help="Global batch; the default is petseg-train's.",
)
@click.option("--world-size", type=click.IntRange(1), default=1, show_default=True, help="Ranks that share it.")
@JSON_OPTION
def info(out: Path | str, batch_size: int, world_size: int, as_json: bool) -> None:
    """Describe a shard set and its training epochs."""
    from shards.cli.set_summary import describe, print_info

    document = describe(ShardSet.open(out), batch_size=batch_size, world_size=world_size)
    if as_json:
        print_json(document)
    else:
        print_info(document, stdout_console(markup=False, highlight=False))


@click.command()
@click.argument("out", type=PLACE)
@click.option("--quick", is_flag=True, help="Sizes and structure only: instant for any number of samples.")
@click.option("--full", is_flag=True, help="Also decode every sample.")
@JSON_OPTION
def verify(out: Path | str, quick: bool, full: bool, as_json: bool) -> int:
    """Prove that every byte of a shard set is as its manifest says.

    If one is not, exit with 1 and name shard, key, member and byte offset.
    """
    from shards.cores import usable_cores
    from shards.store.store_protocol import repeated_text
    from shards.verify.check_address import verify_address
    from shards.verify.check_set import verify as check
    from shards.verify.problems import Mode

    if quick and full:
        raise UsageError("--quick and --full exclude each other")
    if isinstance(out, Path) and not out.is_dir():
        raise FormatError(why_missing(out))
    with progress_bar("verifying") as progress:
        mode: Mode = "quick" if quick else "full" if full else "default"
        if isinstance(out, str):
            report = verify_address(out, mode=mode, workers=usable_cores(), progress=progress)
        else:
            report = check(out, mode=mode, workers=usable_cores(), progress=progress)
    if as_json:
        print_json(report.as_json())
    else:
        click.echo(report.text())
        if repeated := repeated_text(report.repeated):
            say(repeated)
    return 0 if report.ok else 1


@click.command()
@click.argument("out", type=PLACE)
@click.argument("file", metavar="FILE.png|FILE.html", type=PATH)
@click.option("--split", help="train, val or test.  [default: sheet: the first one of the set; page: all]")
@click.option("--count", type=int, help="Number of samples.  [default: sheet: 24; page: 2000]")
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
def preview(out: Path | str, file: Path, split: str | None, count: int | None, overwrite: bool) -> None:
    """Show images with their masks.

    FILE.png becomes a contact sheet, whose font has no Chinese, Japanese or Korean characters. FILE.html becomes a page
    to look through the set in a browser, with filters and class statistics; it is one file that needs no network.
    """
    from shards.format.readers.output_places import expect_ending
    from shards.preview import page, sheet

    ending = expect_ending(file, ".png", ".html")
    opened = ShardSet.open(out)
    if ending == ".png":
        given = 24 if count is None else count
        drawn = sheet.contact_sheet(opened, file, split=split, count=given, overwrite=overwrite)
    else:
        given = page.DEFAULT_COUNT if count is None else count
        with progress_bar("drawing") as progress:
            drawn = page.write_page(opened, file, split=split, count=given, overwrite=overwrite, progress=progress)
    with work_is_done(f"{file} is written"):
        say(f"{counted(drawn, 'sample')} in {file}")
