"""``petseg-bench``: measure, compare, show. Reads arguments, calls, prints."""

import dataclasses
import importlib
import os
from pathlib import Path
from typing import Any

from shards.errors import UsageError, quiet_interrupt

with quiet_interrupt():
    import click

    from bench.settings import BuildSettings, LoaderSettings, RemoteSettings, TrainSettings, with_options
    from shards.console import JSON_OPTION, PATH, FriendlyGroup, current_work, print_json, say

PLOT = click.option("--plot", metavar="FILE.svg|FILE.png", type=PATH, help="Write the figure.")
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace existing files.")
JSON = click.option(
    "--json", "json_file", metavar="FILE.json", type=PATH, help="Write everything that was found to this file."
)


@click.group(cls=FriendlyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Measure how fast loading, training and packing are, compared with what else one could use."""


def add_benchmark(name: str, settings: type[Any], *, summary: str) -> None:
    """Add a command whose options are the fields of ``settings``, and that runs ``bench.{name}_benchmark``."""

    def run(*, json_file: Path | None, plot: Path | None, overwrite: bool, **options: Any) -> None:
        from bench.results.outputs import Outputs

        outputs, wanted = Outputs(json_file, plot, overwrite), settings(**options)
        benchmark = getattr(importlib.import_module(f"bench.{name}_benchmark"), f"run_{name}_benchmark")
        with current_work("starting") as show:
            results = benchmark(wanted, report=show)
        outputs.finish(results)

    main.command(name, help=settings.__doc__, short_help=summary)(with_options(settings)(PLOT(JSON(OVERWRITE(run)))))


add_benchmark("loader", LoaderSettings, summary="Images per second of loaders.")
add_benchmark("train", TrainSettings, summary="What the loader costs a training.")
add_benchmark("build", BuildSettings, summary="Images per second that are packed.")


@main.command(help=RemoteSettings.__doc__, short_help="Epochs over a slow object store.")
@with_options(RemoteSettings)
def remote(**options: Any) -> None:
    """Run it."""
    from bench.remote_benchmark import run_remote_benchmark

    print_json(run_remote_benchmark(RemoteSettings(**options)))


@main.command(short_help="Say what changed from A to B.")
@click.argument("a", metavar="A.json", type=PATH)
@click.argument("b", metavar="B.json", type=PATH)
@JSON_OPTION
@click.option("--fail", is_flag=True, help="Exit with 1 if a line became slower, or has too few repeats to show it.")
def compare(a: Path, b: Path, *, as_json: bool, fail: bool) -> int:
    """Say what changed from A to B beyond the noise; both are files written with --json."""
    from bench.results.comparison import compare_results, comparison_text
    from bench.results.records import read_results

    comparison = compare_results(read_results(a), read_results(b))
    if as_json:
        print_json(dataclasses.asdict(comparison))
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


@main.command(short_help="Put the figures of runs into documents.")
@click.argument("results", metavar="RESULTS.json...", type=PATH, nargs=-1, required=True)
@click.option("--into", "documents", type=PATH, multiple=True, required=True, help="A Markdown file; may be repeated.")
@click.option("--plot", metavar="FILE.svg|FILE.png", type=PATH, help="Write the first run's figure here, and show it.")
@OVERWRITE
def figures(results: tuple[Path, ...], *, documents: tuple[Path, ...], plot: Path | None, overwrite: bool) -> None:
    """Put the figures of runs into documents, between <!-- figures: NAME --> and <!-- end of figures -->."""
    from bench.results.outputs import Outputs
    from bench.results.records import read_results
    from bench.results.result_page import expect_names_for_markers, update_document

    expect_names_for_markers([path.stem for path in results])
    runs = {path.stem: read_results(path) for path in results}
    if problems := Outputs(plot=plot, overwrite=overwrite).write(next(iter(runs.values()))):
        raise UsageError("; ".join(problems))
    for document in documents:
        address = None if plot is None else os.path.relpath(plot, document.parent)
        say(f"{document}: {', '.join(update_document(document, runs, plot=address))}")
