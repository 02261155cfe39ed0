"""``petseg-bench``: measure, compare, show. Reads arguments, calls, prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shards.console import FriendlyGroup, PathArgument, print_json
from shards.errors import UsageError

if TYPE_CHECKING:
    from bench.core.rounds import PartSeconds
    from bench.results.records import Results


class Names(click.ParamType):
    """Names with commas between."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Return the parts of ``a,b,c``; nothing for an empty text."""
        return value if isinstance(value, tuple) else tuple(part.strip() for part in value.split(",") if part.strip())


class Numbers(Names):
    """Positive whole numbers with commas between."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the numbers of ``1,2,4``."""
        parts = super().convert(value, param, ctx)
        if not all(str(part).isdecimal() and int(part) > 0 for part in parts):
            self.fail(f"{value!r}: give positive whole numbers with commas between, such as 1,2", param, ctx)
        return tuple(map(int, parts))


PATH, NAMES, SIZE, COUNT = PathArgument(), Names(), click.IntRange(8, 4096), click.IntRange(1)
SECONDS = click.FloatRange(0, 600, min_open=True)


def choice(name: str, names: str, default: str, **more: Any) -> Callable[..., Any]:
    """Return an option that takes one of some names."""
    return click.option(name, type=click.Choice(names.split()), default=default, show_default=True, **more)


SHARDS = click.option("--shards", type=PATH, required=True, help="A shard set; of source storage for all storages.")
SPLIT = click.option("--split", default="train", show_default=True)
SEED = click.option("--seed", default=0, show_default=True)
WORK = click.option("--work", type=PATH, help="Make temporary folders here, on the disk to be measured.")
REPEATS = click.option(
    "--repeats", type=COUNT, default=5, show_default=True,
    help="Timed repeats of each subject, in turns with the others; up to five processes share them.",
)  # fmt: skip
PAGE = click.option("--page", type=PATH, help="Write a self-contained HTML page.")
PLOT = click.option("--plot", type=PATH, help="Write the figure, .svg or .png.")
JSON = click.option("--json", "json_file", type=PATH, help="Write everything that was found to this file.")


@click.group(cls=FriendlyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Measure how fast loading, training and packing are, compared with what else one could use."""


def measuring(command: Callable[..., Results]) -> Callable[..., None]:
    """Turn a function that measures into a command that writes its results: ``--json``, ``--page``, ``--plot``."""

    def run(*, json_file: Path | None, page: Path | None, plot: Path | None, **options: Any) -> None:
        from bench.results.outputs import Outputs

        outputs = Outputs(json_file, page, plot)
        with progress() as parts:
            results = command(parts=parts, **options)
        outputs.finish(results)

    run.__doc__ = command.__doc__
    run.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    return main.command(command.__name__)(PLOT(PAGE(JSON(run))))


@contextmanager
def progress() -> Iterator[PartSeconds]:
    """Show what is done now on stderr where that is a terminal."""
    from bench.core.rounds import PartSeconds

    if not sys.stderr.isatty():
        yield PartSeconds()
        return
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield PartSeconds(status.update)


@measuring
@SHARDS
@SPLIT
@click.option(
    "--storages", type=NAMES, default="source,jpeg,raw", show_default=True,
    help="Which storages; those that --shards is not are built in a temporary folder.",
)  # fmt: skip
@click.option(
    "--peers", type=NAMES, default="", help="Only these loaders, by name, with commas between.  [default: all]"
)
@click.option("--size", type=SIZE, default=128, show_default=True, help="Side of the output in pixels.")
@click.option("--batch-size", type=COUNT, default=32, show_default=True)
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=0,
    help="Processes or threads for each loader.  [default: each takes its best]",
)
@REPEATS
@click.option(
    "--seconds", type=SECONDS, default=0.5, show_default=True, help="How long one repeat takes, in complete epochs."
)
@choice("--augment", "none train both", "both")
@choice(
    "--mask",
    "onehot index both",
    "both",
    help="Form of the masks; both: one-hot, and of raw storage, in evaluation, class indices too.",
)
@choice("--cache", "warm cold both", "warm", help="cold: drop the files from the page cache before each repeat.")
@choice("--device", "cpu cuda", "cpu")
@SEED
@click.option(
    "--starts",
    type=click.IntRange(0),
    default=3,
    show_default=True,
    help="Starts of a fresh process to its first batch; 0: none.",
)
@click.option(
    "--soak",
    type=click.IntRange(0),
    default=100,
    show_default=True,
    help="Epochs in a row, to see whether memory grows; 0: none.",
)
@click.option("--source", type=PATH, help="Read the images of file-based loaders from here, the set's own source.")
@WORK
@click.option(
    "--handicap",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    metavar="PART",
    help="Slow every loader by this part, to see that compare finds it.",
)
def loader(*, parts: PartSeconds, **options: Any) -> Results:
    """Images per second of petseg's loader and of others, over the same images, checked to be the same work."""
    from bench.loader_benchmark import run_loader_benchmark
    from bench.loader_plan import LoaderSettings

    return run_loader_benchmark(LoaderSettings(**options), parts=parts)


@measuring
@SHARDS
@click.option("--models", type=NAMES, default="unet,tutorial", show_default=True, help="Which networks.")
@click.option(
    "--precisions", type=NAMES, default="auto", show_default=True, help="auto, fp32, bf16, fp16; with commas between."
)
@SPLIT
@click.option("--size", type=SIZE, help="Side of the images.  [default: each recipe's; with a consumer 128]")
@click.option("--batch-size", type=COUNT, help="[default: each recipe's; with a consumer 32]")
@choice("--device", "auto cpu cuda", "auto")
@choice("--engine", "auto dali torch", "auto")
@REPEATS
@click.option(
    "--seconds", type=SECONDS, default=3.0, show_default=True, help="How long one repeat of one mode takes at least."
)
@SEED
@click.option(
    "--consumer-rate",
    type=click.FloatRange(0, 1e7, min_open=True),
    help="In a network's place, take so many images/s from each loader in turn.",
)
@click.option("--storages", type=NAMES, help="With a consumer: which storages.  [default: source,jpeg,raw]")
@click.option("--peers", type=NAMES, help="With a consumer: only these loaders.  [default: all]")
def train(
    *, parts: PartSeconds, consumer_rate: float | None, storages: tuple[str, ...] | None, peers: tuple[str, ...] | None,
    models: tuple[str, ...], precisions: tuple[str, ...], device: str, engine: str, size: int | None,
    batch_size: int | None, **options: Any,
) -> Results:  # fmt: skip
    """How much of the network's speed the loader costs: the loader alone, compute-only, end-to-end."""
    from bench.loader_plan import LoaderSettings
    from bench.train_benchmark import TrainSettings, run_consumer_benchmark, run_train_benchmark

    if consumer_rate is not None:
        settings = LoaderSettings(
            storages=storages or ("source", "jpeg", "raw"), peers=peers or (), size=size or 128, augment="none",
            batch_size=batch_size or 32, device="cuda" if device == "cuda" else "cpu", **options,
        )  # fmt: skip
        return run_consumer_benchmark(settings, rate=consumer_rate, parts=parts)
    if storages is not None or peers is not None:
        raise UsageError("--storages and --peers go with --consumer-rate: training uses petseg's loader")
    network = TrainSettings(models=models, precisions=precisions, device=device, engine=engine, size=size or 0,
                            batch_size=batch_size or 0, **options)  # fmt: skip
    return run_train_benchmark(network, parts=parts)


@measuring
@click.argument("source", type=PATH)
@click.option("--storages", type=NAMES, default="source,jpeg,raw", show_default=True)
@click.option("--size", type=SIZE, default=128, show_default=True, help="Side of the stored images, for jpeg and raw.")
@click.option(
    "--workers",
    type=Numbers(),
    default="",
    help="Numbers of processes, with commas between.  [default: 1 and all cores]",
)
@REPEATS
@WORK
def build(*, parts: PartSeconds, **options: Any) -> Results:
    """How fast SOURCE, a folder in the official layout, is packed; compared with tar, webdataset's writer and a copy."""
    from bench.build_benchmark import BuildSettings, run_build_benchmark

    return run_build_benchmark(BuildSettings(**options), parts=parts)


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
@PAGE
@PLOT
def show(results: Path, *, page: Path | None, plot: Path | None) -> None:
    """Print the tables of a run again, or write its page and its figure."""
    from bench.results.outputs import Outputs
    from bench.results.records import read_results
    from bench.results.rendering import print_results

    found, outputs = read_results(results), Outputs(None, page, plot)
    if problems := outputs.write(found):
        raise UsageError("; ".join(problems))
    if page is None and plot is None:
        print_results(found)


@main.command()
@click.argument("results", metavar="RESULTS.json...", type=PATH, nargs=-1, required=True)
@click.option("--into", "documents", type=PATH, multiple=True, required=True, help="A Markdown file; may be repeated.")
@click.option("--plot", type=PATH, help="Write the first run's figure here, .svg or .png, and show it.")
def figures(results: tuple[Path, ...], *, documents: tuple[Path, ...], plot: Path | None) -> None:
    """Put the figures of runs into documents, between <!-- figures: NAME --> and <!-- end of figures -->."""
    from bench.results.documents import update_document
    from bench.results.outputs import Outputs, write_plot
    from bench.results.records import read_results

    outputs = Outputs(plot=plot)
    runs = {path.stem: read_results(path) for path in results}
    if outputs.plot is not None:
        write_plot(next(iter(runs.values())), outputs.plot)
    for document in documents:
        address = None if plot is None else os.path.relpath(plot, document.parent)
        click.echo(f"{document}: {', '.join(update_document(document, runs, plot=address))}")


@main.command()
def shuffle() -> None:
    """Print how well petseg's order, DALI's reader and webdataset shuffle a set that is sorted by class."""
    from bench.shuffle_quality import print_shuffle_quality

    print_shuffle_quality()
