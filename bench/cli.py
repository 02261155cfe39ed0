"""``petseg-bench``: measure, compare, show. Reads arguments, calls, prints."""

import dataclasses
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.settings import BuildSettings, LoaderSettings, TrainSettings, shown_value
from shards.console import PATH, FriendlyGroup, print_json, say
from shards.errors import UsageError

if TYPE_CHECKING:
    from bench.core.rounds import PartSeconds

PLOT = click.option("--plot", type=PATH, help="Write the figure, .svg or .png.")
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace existing files.")
JSON = click.option("--json", "json_file", type=PATH, help="Write everything that was found to this file.")


@click.group(cls=FriendlyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Measure how fast loading, training and packing are, compared with what else one could use."""


@contextmanager
def progress() -> "Iterator[PartSeconds]":
    """Show what is done now on stderr where that is a terminal."""
    from rich.console import Console

    from bench.core.rounds import PartSeconds

    with Console(stderr=True).status("starting") as status:  # shows nothing where that is no terminal
        yield PartSeconds(status.update)


def add_benchmark(name: str, settings: type[Any], text: str) -> None:
    """Add a command whose options are the fields of ``settings``, and that runs ``bench.{name}_benchmark``."""

    def run(*, json_file: Path | None, plot: Path | None, overwrite: bool, **options: Any) -> None:
        from bench.results.outputs import Outputs

        outputs = Outputs(json_file, plot, overwrite)
        wanted = settings(**options)
        benchmark = importlib.import_module(f"bench.{name}_benchmark")
        with progress() as parts:
            results = getattr(benchmark, f"run_{name}_benchmark")(wanted, parts=parts)
        outputs.finish(results)

    command: Any = PLOT(JSON(OVERWRITE(run)))
    for field in reversed(dataclasses.fields(settings)):
        how = dict(field.metadata)
        if how.pop("argument", False):
            command = click.argument(field.name, type=how["type"])(command)
            continue
        if field.default is not dataclasses.MISSING:
            how["default"] = shown_value(field.default)
        command = click.option(f"--{field.name.replace('_', '-')}", **how)(command)
    main.command(name, help=text)(command)


# fmt: off

add_benchmark("loader", LoaderSettings,
              "Images per second of petseg's loader and of others, over the same images, checked to be the same work.")
add_benchmark("train", TrainSettings,
              "How much of the network's speed the loader costs: the loader alone, compute-only, end-to-end.")
add_benchmark("build", BuildSettings,
              "How fast SOURCE is packed, with one process and with all cores, and how near that is to decoding alone.")
# fmt: on


@main.command()
@click.argument("shards", type=PATH)
@click.option("--size", type=int, default=128, show_default=True, help="Of the output, pixels.")
@click.option("--batch-size", type=int, default=32, show_default=True, help="Images in a batch.")
@click.option("--delay", type=float, default=0.02, show_default=True, help="Seconds before each reply.")
@click.option("--epochs", type=click.IntRange(min=2), default=5, show_default=True, help="Of each run.")
@click.option("--repeats", type=int, default=3, show_default=True, help="Runs of each subject, in turns.")
@click.option("--time-limit", type=float, default=300, show_default=True, help="Seconds for each run.")
def remote(*, shards: Path, **options: Any) -> None:
    """Epochs of SHARDS over an object store, a server on loopback that is slow to reply, beside other libraries."""
    from bench.remote_benchmark import run_remote_benchmark

    print_json(run_remote_benchmark(shards, **options))


@main.command()
@click.argument("a", metavar="A.json", type=PATH)
@click.argument("b", metavar="B.json", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.option("--fail", is_flag=True, help="Exit with 1 if a line became slower, or has too few repeats to show it.")
def compare(a: Path, b: Path, *, as_json: bool, fail: bool) -> int:
    """Say what changed from A to B beyond the noise; both are files written with --json."""
    from bench.results.comparison import compare_results, comparison_json, comparison_text
    from bench.results.records import read_results

    comparison = compare_results(read_results(a), read_results(b))
    if as_json:
        print_json(comparison_json(comparison))
    else:
        click.echo(comparison_text(comparison))
    return int(fail and not comparison.passes)


@main.command()
@click.argument("results", metavar="RESULTS.json", type=PATH)
@PLOT
@OVERWRITE
def show(results: Path, *, plot: Path | None, overwrite: bool) -> None:
    """Print the tables of a run again, and write its figure."""
    from bench.results.outputs import Outputs
    from bench.results.records import read_results

    Outputs(plot=plot, overwrite=overwrite).finish(read_results(results))


@main.command()
@click.argument("results", metavar="RESULTS.json...", type=PATH, nargs=-1, required=True)
@click.option("--into", "documents", type=PATH, multiple=True, required=True, help="A Markdown file; may be repeated.")
@click.option("--plot", type=PATH, help="Write the first run's figure here, .svg or .png, and show it.")
@OVERWRITE
def figures(results: tuple[Path, ...], *, documents: tuple[Path, ...], plot: Path | None, overwrite: bool) -> None:
    """Put the figures of runs into documents, between <!-- figures: NAME --> and <!-- end of figures -->."""
    from bench.results.outputs import Outputs
    from bench.results.records import read_results
    from bench.results.result_page import update_document

    runs = {path.stem: read_results(path) for path in results}
    if problems := Outputs(plot=plot, overwrite=overwrite).write(next(iter(runs.values()))):
        raise UsageError("; ".join(problems.values()))
    for document in documents:
        address = None if plot is None else os.path.relpath(plot, document.parent)
        say(f"{document}: {', '.join(update_document(document, runs, plot=address))}")
