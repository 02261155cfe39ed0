"""``petseg-bench``: measure, compare, show. Reads arguments, calls, prints."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from bench.outputs import check_writable, finish, write_page, write_plot
from shards.console import FriendlyGroup, PathArgument
from shards.errors import UsageError

PATH = PathArgument()
SHARDS = click.option("--shards", type=PATH, required=True, help="A shard set; of source storage for all storages.")
PAGE = click.option("--page", type=PATH, help="Write a self-contained HTML page.")
PLOT = click.option("--plot", type=PATH, help="Write the figure, .svg or .png.")
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
@click.option("--seconds", default=0.5, show_default=True, help="How long one repeat takes, in whole epochs.")
@click.option("--augment", type=click.Choice(["none", "train", "both"]), default="both", show_default=True)
@click.option(
    "--mask",
    type=click.Choice(["onehot", "index", "both"]),
    default="both",
    show_default=True,
    help="Form of the masks; both: one-hot, and of raw storage, in evaluation, class indices too.",
)
@click.option(
    "--cache",
    type=click.Choice(["warm", "cold", "both"]),
    default="warm",
    show_default=True,
    help="cold: drop the files from the page cache before each repeat.",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--starts", default=3, show_default=True, help="Starts of a fresh process to its first batch; 0: none.")
@click.option("--soak", default=100, show_default=True, help="Epochs in a row, to see memory grow or not; 0: none.")
@click.option("--source", type=PATH, help="Read the pictures of file-based loaders from here, the set's own source.")
@click.option("--work", type=PATH, help="Make temporary folders here, on the disk to be measured.")
@click.option(
    "--handicap", default=0.0, metavar="PART", help="Slow every loader by this part, to see that compare finds it."
)
@JSON
@PAGE
@PLOT
def loader(
    *, json_file: Path | None, page: Path | None, plot: Path | None, storages: str, peers: str, **options: object
) -> None:
    """Pictures per second of our loader and of others, over the same pictures, checked to be the same work."""
    from bench.loader_bench import run_loader_bench
    from bench.loader_settings import LoaderSettings

    check_writable(json_file=json_file, page=page, plot=plot)
    settings = LoaderSettings(storages=split_names(storages), peers=split_names(peers), **options)  # type: ignore[arg-type]
    with notes() as note:
        results = run_loader_bench(settings, note=note)
    finish(results, json_file=json_file, page=page, plot=plot)


@main.command()
@SHARDS
@click.option("--models", default="unet,tutorial", show_default=True, help="Which networks, with commas between.")
@click.option("--precisions", default="auto", show_default=True, help="auto, fp32, bf16, fp16; with commas between.")
@click.option("--split", default="train", show_default=True)
@click.option("--size", type=int, help="Side of the pictures.  [default: each recipe's; with a consumer 128]")
@click.option("--batch-size", type=int, help="[default: each recipe's; with a consumer 32]")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--engine", type=click.Choice(["auto", "dali", "torch"]), default="auto", show_default=True)
@click.option("--repeats", default=5, show_default=True, help="Timed repeats of each mode, in turns.")
@click.option("--seconds", default=3.0, show_default=True, help="How long one repeat of one mode takes at least.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--consumer-rate", type=float, help="In a network's place, take so many pictures/s from each loader in turn."
)
@click.option("--storages", help="With a consumer: which storages.  [default: source,jpeg,raw]")
@click.option("--peers", help="With a consumer: only these loaders.  [default: all]")
@JSON
@PAGE
@PLOT
def train(
    *,
    shards: Path,
    models: str,
    precisions: str,
    split: str,
    size: int | None,
    batch_size: int | None,
    device: str,
    engine: str,
    repeats: int,
    seconds: float,
    seed: int,
    consumer_rate: float | None,
    storages: str | None,
    peers: str | None,
    json_file: Path | None,
    page: Path | None,
    plot: Path | None,
) -> None:
    """How much of the network's speed the loader costs: loader alone, training in memory, training for real."""
    from bench.loader_settings import LoaderSettings
    from bench.train_bench import TrainSettings, run_consumer_bench, run_train_bench

    check_writable(json_file=json_file, page=page, plot=plot)
    check_sizes(size=size, batch_size=batch_size)
    with notes() as note:
        if consumer_rate is None:
            if storages is not None or peers is not None:
                raise UsageError("--storages and --peers go with --consumer-rate: training uses our loader")
            results = run_train_bench(
                TrainSettings(
                    shards=shards,
                    models=split_names(models),
                    precisions=split_names(precisions),
                    split=split,
                    size=size or 0,
                    batch_size=batch_size or 0,
                    device=device,
                    engine=engine,
                    repeats=repeats,
                    seconds=seconds,
                    seed=seed,
                ),
                note=note,
            )
        else:
            consumer = LoaderSettings(
                shards=shards,
                split=split,
                storages=split_names(storages or "source,jpeg,raw"),
                peers=split_names(peers or ""),
                size=size or 128,
                batch_size=batch_size or 32,
                device="cuda" if device == "cuda" else "cpu",
                repeats=repeats,
                seconds=seconds,
                seed=seed,
                augment="none",
            )
            results = run_consumer_bench(consumer, rate=consumer_rate, note=note)
    finish(results, json_file=json_file, page=page, plot=plot)


@main.command()
@click.argument("source", type=PATH)
@click.option("--storages", default="source,jpeg,raw", show_default=True)
@click.option("--size", default=128, show_default=True, help="Side of the stored pictures, for jpeg and raw.")
@click.option("--workers", default="", help="Numbers of processes, with commas between.  [default: 1 and all cores]")
@click.option("--repeats", default=5, show_default=True, help="Timed repeats of each line, in turns.")
@click.option("--work", type=PATH, help="Make temporary folders here, on the disk to be measured.")
@JSON
@PAGE
@PLOT
def build(
    *,
    source: Path,
    storages: str,
    size: int,
    workers: str,
    repeats: int,
    work: Path | None,
    json_file: Path | None,
    page: Path | None,
    plot: Path | None,
) -> None:
    """How fast SOURCE, a folder in the official layout, is packed; beside tar, webdataset's writer and a copy."""
    from bench.build_bench import BuildSettings, run_build_bench

    check_writable(json_file=json_file, page=page, plot=plot)
    check_sizes(size=size, batch_size=None)
    settings = BuildSettings(
        source=source,
        storages=split_names(storages),
        size=size,
        workers=whole_numbers("--workers", workers),
        repeats=repeats,
        work=work,
    )
    with notes() as note:
        results = run_build_bench(settings, note=note)
    finish(results, json_file=json_file, page=page, plot=plot)


def check_sizes(*, size: int | None, batch_size: int | None) -> None:
    """Refuse numbers that no benchmark takes.

    Raises:
        UsageError: with the option.
    """
    if size is not None and not 8 <= size <= 4096:
        raise UsageError(f"--size {size}: must be from 8 to 4096")
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"--batch-size {batch_size}: must be 1 or more")


def whole_numbers(option: str, text: str) -> tuple[int, ...]:
    """Return the numbers of ``1,2,4``; nothing for an empty text.

    Raises:
        UsageError: a part is not a positive whole number.
    """
    parts = split_names(text)
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"{option} {text!r}: give positive whole numbers with commas between, such as 1,2")
    return tuple(int(part) for part in parts)


def split_names(text: str) -> tuple[str, ...]:
    """Return the parts of ``a,b,c``; nothing for an empty text."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


@contextmanager
def notes() -> Iterator[Callable[[str], None]]:
    """Show what is done now on stderr where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield status.update


@main.command()
@click.argument("a", metavar="A.json", type=PATH)
@click.argument("b", metavar="B.json", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.option("--fail", "fail_on_change", is_flag=True, help="Exit with 1 if a line became slower.")
def compare(a: Path, b: Path, *, as_json: bool, fail_on_change: bool) -> int:
    """Say what changed from A to B beyond the noise; both are files written with --json."""
    from bench.compare import compare_results, comparison_json, comparison_text
    from bench.results import read_results
    from shards.console import print_json

    comparison = compare_results(read_results(a), read_results(b))
    if as_json:
        print_json(comparison_json(comparison))
    else:
        click.echo(comparison_text(comparison))
    slower = any(line.difference.changed and line.difference.ratio < 1 for line in comparison.lines)
    return int(fail_on_change and slower)


@main.command()
@click.argument("results", metavar="RESULTS.json", type=PATH)
@click.option("--page", type=PATH, help="Write a self-contained HTML page.")
@click.option("--plot", type=PATH, help="Write the figure, .svg or .png.")
def show(results: Path, *, page: Path | None, plot: Path | None) -> None:
    """Print the tables of a run again, or write its page and its figure."""
    from bench.results import read_results
    from bench.table import print_results

    found = read_results(results)
    check_writable(json_file=None, page=page, plot=plot)
    if page is not None:
        write_page(found, page)
    if plot is not None:
        write_plot(found, plot)
    if page is None and plot is None:
        print_results(found)


@main.command()
@click.argument("results", metavar="RESULTS.json...", type=PATH, nargs=-1, required=True)
@click.option("--into", "documents", type=PATH, multiple=True, required=True, help="A Markdown file; may be repeated.")
@click.option("--plot", type=PATH, help="Write the first run's figure here, .svg or .png, and show it.")
def figures(results: tuple[Path, ...], *, documents: tuple[Path, ...], plot: Path | None) -> None:
    """Put the figures of runs into documents, between <!-- figures: NAME --> and <!-- end of figures -->."""
    import os

    from bench.figures import update_document
    from bench.results import read_results

    runs = {path.stem: read_results(path) for path in results}
    if plot is not None:
        write_plot(next(iter(runs.values())), plot)
    for document in documents:
        address = None if plot is None else os.path.relpath(plot, document.parent)
        blocks = update_document(document, runs, plot=address)
        click.echo(f"{document}: {', '.join(blocks)}")
