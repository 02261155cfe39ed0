"""``petseg-eval``: scores a run on a split of a shard set."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from petseg.cli.shared_options import (
    DEVICE,
    FLIP_TTA,
    HELP,
    JSON,
    OVERLAP,
    PRECISION,
    SCALES,
    SIZE,
    WINDOW,
)
from shards.console import FriendlyCommand, PathArgument, PlaceArgument, print_json, say
from shards.errors import counted, listed, work_is_done

if TYPE_CHECKING:
    from petseg.inference.evaluation import Evaluation
    from shards.format.dataset import ShardSet
    from shards.store.remote.remote_files import Fetch

CACHE = "Folder to cache a set of an object store in.  [default: petseg in the user's cache folder]"
FETCH = "From an object store: single samples (range) or whole shards."


@click.command(cls=FriendlyCommand, context_settings=HELP)
@click.argument("runs", metavar="RUN", type=PathArgument(), nargs=-1, required=True)
@click.option("--shards", type=PlaceArgument(), help="The shard set: a folder, or an address such as s3://bucket/set.")
@click.option("--fetch", type=click.Choice(["auto", "range", "shard"]), default="auto", show_default=True, help=FETCH)
@click.option("--cache", type=PathArgument(), help=CACHE)
@click.option("--cache-bytes", help="Most that --cache may hold, such as 200GB.  [default: half of what is free]")
@click.option("--split", help="Which of its splits: train, val or test.  [default: test]")
@click.option("--batch-size", type=int, default=32, show_default=True, help="Does not influence the scores.")
@click.option(
    "--original-resolution",
    "--own-size",
    "original_resolution",
    is_flag=True,
    help="Compare at the images' stored size, with source storage the original resolution, not at the network's size; "
    "with windows always.",
)
@WINDOW
@OVERLAP
@SCALES
@FLIP_TTA
@click.option("--csv", "table", metavar="FILE.csv", type=PathArgument(), help="Write a table with one line per image.")
@click.option("--compare", is_flag=True, help="Write a page that shows several RUNs side by side.")
@click.option(
    "-o",
    "--output",
    "page",
    metavar="FILE.html",
    type=PathArgument(),
    help="With --compare: the page.  [default: comparison.html]",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing table or page.")
@SIZE
@DEVICE
@PRECISION
@JSON
def evaluate(
    *,
    runs: tuple[Path, ...],
    shards: str | Path | None,
    fetch: "Fetch",
    cache: Path | None,
    cache_bytes: str | None,
    split: str | None,
    table: Path | None,
    compare: bool,
    page: Path | None,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Score RUN (a run's folder, or a checkpoint) on a split: every sample once, one confusion matrix.

    \b
    petseg-eval runs/pets --shards pets-shards --split test
    torchrun --nproc-per-node 4 --no-python -- petseg-eval runs/pets --shards pets-shards
    petseg-eval --compare runs/a runs/b -o page.html        with --shards: also on images of that set
    """
    from shards.format.dataset import ShardSet

    options["split"] = split or "test"
    stored: dict[str, Any] = {"fetch": fetch, "cache": cache, "cache_bytes": cache_bytes}
    if compare:
        _expect_used(shards, table, split, cache, cache_bytes, None if fetch == "auto" else fetch)
        data = None if shards is None else ShardSet.open(shards, **stored)
        place = page or Path("comparison.html")
        notes = _compare(runs, place, shards=data, overwrite=overwrite, options=options)
        with work_is_done(f"{place} is written"):
            if as_json:
                print_json({"page": str(place), "runs": [str(run) for run in runs], "notes": notes})
            else:
                say(f"{place}: {counted(len(runs), 'run')} side by side")
        return
    if overwrite and table is None:
        raise click.UsageError("--overwrite is for --csv and --compare: nothing else is written")
    run = _only_run(runs, page, as_json=as_json)
    if shards is None:
        raise click.UsageError("Missing option '--shards': the shard set to score RUN on")
    from shards.format.readers.output_places import expect_ending, expect_free

    if table is not None:  # before torch is imported
        expect_free(table, overwrite=overwrite, read=run, advice="choose another name for --csv")
        expect_ending(table, ".csv")
    from petseg.host.distributed import world_from_environment
    from petseg.inference.scoring import score_run, write_table
    from petseg.report.console_reporter import progress_count

    world = world_from_environment()
    data = ShardSet.open(shards, **stored)
    with progress_count("images scored", quiet=not world.first) as advance:
        evaluation = score_run(run, data, world=world, after_batch=advance, **options)
    if not world.first:
        return
    try:
        _print(evaluation, data, split=options["split"], as_json=as_json)
    finally:  # the scores are printed before anything can go wrong with the table, which needs nobody to read them
        if table is not None:
            write_table(evaluation, data, options["split"], table, overwrite=overwrite)


def _only_run(runs: tuple[Path, ...], page: Path | None, *, as_json: bool) -> Path:
    """Return the one RUN; raise ``UsageError`` for several, and for the page of a comparison."""
    if len(runs) != 1:
        hint = "; --json takes no file, it prints: --json > scores.json" if as_json else ""
        names = listed([str(run) for run in runs])
        raise click.UsageError(f"give one RUN, not {len(runs)} ({names}): several are for --compare{hint}")
    if page is not None:
        raise click.UsageError("-o is for --compare; --csv writes a table, --json prints")
    return runs[0]


def _expect_used(shards: str | Path | None, table: Path | None, *options: object) -> None:
    if table is not None:
        raise click.UsageError("--csv is for one RUN, without --compare")
    if shards is None and any(option is not None for option in options):
        raise click.UsageError(
            "--split, --fetch, --cache and --cache-bytes are for --shards; without it runs are compared by the scores "
            "that they logged"
        )


def _compare(
    runs: tuple[Path, ...], page: Path, *, shards: "ShardSet | None", overwrite: bool, options: dict[str, Any]
) -> dict[str, list[str]]:
    """Write the page; return the notes of each run's scores."""
    plain = {"original_resolution": False, "flip_tta": False, "size": None, "window": None, "overlap": None}
    if any(options[name] != value for name, value in plain.items()) or options["scales"] != (1.0,):
        raise click.UsageError(
            "--compare scores each network as it was trained: omit --original-resolution, --flip-tta, --size, "
            "--window, --overlap and --scales"
        )
    from petseg.report.compare_runs import compare_runs
    from petseg.report.console_reporter import progress_count

    chosen = {name: options[name] for name in ("split", "batch_size", "device", "precision")}
    with progress_count("images scored") as advance:
        notes = compare_runs(runs, page, shards=shards, overwrite=overwrite, after_batch=advance, **chosen)
    return {str(run): list(each) for run, each in zip(runs, notes, strict=True)}


def _print(evaluation: "Evaluation", data: "ShardSet", *, split: str, as_json: bool) -> None:
    from petseg.inference.scoring import compared_at, summary
    from shards.store.store_protocol import repeated_text

    where = compared_at(data.manifest.storage, original_resolution=evaluation.original_resolution)
    if as_json:
        print_json(summary(evaluation, split=split, compared_at=where))
    else:
        _print_scores(evaluation, split=split, compared_at=where)
    if repeated := repeated_text(data.store.failures):
        say(repeated, err=as_json)


def _print_scores(evaluation: "Evaluation", *, split: str, compared_at: str) -> None:
    from shards.format.geometry import size_text

    scores, names = evaluation.scores, evaluation.labels.names
    where = {"network size": "the network's size", "original resolution": "the images' original resolution"}
    place = where.get(compared_at, "the images' size in the set, which is not the original one")
    if evaluation.enlarged_from is not None:
        place += f", for which the set's images and masks of {size_text(evaluation.enlarged_from)} were enlarged"
    how = evaluation.options.text(evaluation.window)
    few = f"; {counted(evaluation.padded, 'image')} padded, being smaller than a window" if evaluation.padded else ""
    say(f"{counted(evaluation.samples, 'image')} of {split}, at {place}{how}{few}")
    width = max(12, 2 + max(map(len, names)))
    say(f"{'':{width}}{'IoU':>8}{'Dice':>8}{'recall':>8}")
    for name, *values in zip(names, scores.iou, scores.dice, scores.recall, strict=True):
        say(f"{name:{width}}" + "".join(f"{_number(value):>8}" for value in values))
    say(f"{'mean':{width}}{_number(scores.mean_iou):>8}{_number(scores.mean_dice):>8}")
    if absent := evaluation.absent:
        whose = "its" if len(absent) == 1 else "their"
        say(f"no pixel of {listed(absent)} in the masks of {split}: {whose} IoU of 0 counts in the mean")
    say(f"pixel accuracy {_number(scores.pixel_accuracy)}")
    if scores.binary is not None:
        say(_binary_line(evaluation))


def _binary_line(evaluation: "Evaluation") -> str:
    labels, binary = evaluation.labels, evaluation.scores.binary
    assert binary is not None
    foreground, boundary = " and ".join(labels.foreground), " and ".join(labels.boundary)
    iou = f"{foreground} against the rest: IoU {_number(binary.boundary_as_foreground)}"
    if not boundary:
        return iou
    return (
        f"{iou} with the {boundary} counted as {foreground}, {_number(binary.boundary_ignored)} with the {boundary}'s "
        "pixels ignored"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
