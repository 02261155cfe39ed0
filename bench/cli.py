"""``petseg-bench``: measure, compare, show. Reads arguments, calls, prints."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from shards.console import FriendlyGroup
from shards.errors import UsageError

PATH = click.Path(path_type=Path)
SHARDS = click.option("--shards", type=PATH, required=True, help="A shard set; of source storage for all storages.")
JSON = click.option("--json", "json_file", type=PATH, help="Write everything that was found to this file.")


@click.group(cls=FriendlyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Measure how fast loading, training and packing are, beside what else one could use."""


@main.command()
@SHARDS
@click.option("--split", default="train", show_default=True)
@click.option(
    "--storages",
    default="source,jpeg,raw",
    show_default=True,
    help="Which storages; those that --shards is not are built in a temporary folder.",
)
@click.option("--peers", default="", help="Only these loaders, by name, with commas between.  [default: all]")
@click.option("--size", default=128, show_default=True, help="Side of the output in pixels.")
@click.option("--batch-size", default=32, show_default=True)
@click.option("--workers", default=0, help="Processes or threads for each loader.  [default: each takes its best]")
@click.option("--repeats", default=5, show_default=True, help="Timed repeats of each loader, in turns with the others.")
@click.option("--seconds", default=1.0, show_default=True, help="How long one repeat takes, in whole epochs.")
@click.option("--augment", type=click.Choice(["none", "train", "both"]), default="both", show_default=True)
@click.option(
    "--cache",
    type=click.Choice(["warm", "cold", "both"]),
    default="warm",
    show_default=True,
    help="cold: drop the files from the page cache before each repeat.",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--source", type=PATH, help="Read the pictures of file-based loaders from here, the set's own source.")
@click.option("--work", type=PATH, help="Make temporary folders here, on the disk to be measured.")
@click.option(
    "--handicap", default=0.0, metavar="PART", help="Slow every loader by this part, to see that compare finds it."
)
@JSON
def loader(*, json_file: Path | None, storages: str, peers: str, **options: object) -> None:
    """Pictures per second of our loader and of others, over the same pictures, checked to be the same work."""
    from bench.loader_bench import LoaderSettings, run_loader_bench
    from bench.results import write_results
    from bench.table import print_results

    check_writable(json_file)
    settings = LoaderSettings(storages=split_names(storages), peers=split_names(peers), **options)  # type: ignore[arg-type]
    with notes() as note:
        results = run_loader_bench(settings, note=note)
    if json_file is not None:
        write_results(results, json_file)
    print_results(results)


def split_names(text: str) -> tuple[str, ...]:
    """Return the parts of ``a,b,c``; nothing for an empty text."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def check_writable(path: Path | None) -> None:
    """Refuse a result file that could not be written, before minutes are spent on measuring.

    Raises:
        UsageError: its folder is not there.
    """
    if path is not None and not path.parent.is_dir():
        raise UsageError(f"--json {path}: the folder {path.parent} does not exist; make it first")


@contextmanager
def notes() -> Iterator[Callable[[str], None]]:
    """Show what is done now on stderr where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield status.update
