"""Scoring a trained run on a split of any shard set, as ``petseg-eval`` does."""

import csv
import io
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from petseg.host.device import Precision
from petseg.host.distributed import World, process_group
from petseg.inference.evaluation import Evaluation
from petseg.inference.evaluation import evaluate as evaluate_network
from petseg.inference.network_inputs import WHOLE_IMAGES, InferenceOptions, check_batch_size
from petseg.inference.stored_evaluation import evaluate_stored
from petseg.inference.trained_network import Predictor, load
from petseg.runs.run_folder import A_RUN, trained_on
from pipeline import Loader
from pipeline.arguments import resolve_shards
from pipeline.io.damage import without_replacement
from shards import ShardSet, UsageError
from shards.errors import counted, expect_flags, listed, option, printable
from shards.format.geometry import Size
from shards.format.layout import SPLITS, Storage
from shards.format.readers.output_places import expect_ending, expect_free
from shards.public_calls import suggests_names
from shards.store.addresses import expect_paths
from shards.store.atomic import write_atomically

log = logging.getLogger("petseg")


@suggests_names
def evaluate(
    run: str | Path,
    shards: str | Path | ShardSet,
    *,
    split: str = "test",
    size: int | str | Size | None = None,
    original_resolution: bool = False,
    flip_tta: bool = False,
    scales: Sequence[float] = (1.0,),
    window: int | str | Size | None = None,
    overlap: float | None = None,
    batch_size: int = 32,
    device: str = "auto",
    precision: Precision = "auto",
    world: World | None = None,
    after_batch: Callable[[int], None] = lambda images: None,
) -> Evaluation:
    """Score a run on every sample of a split, as ``petseg-eval``.

    Args:
        run: a run's folder, or a checkpoint.
        shards: a shard set: its folder or address, or an open one.
        split: of that set.
        size: of the images given to the network, pixels: N, (height, width) or "HxW"; None for that of its training.
        original_resolution: predict whole images as :func:`petseg.predict` does, and compare at their stored sizes,
            which in ``source`` storage are the original ones; otherwise compare at the network's size.
        flip_tta: average with the predictions of the horizontally flipped images.
        scales: average over inputs whose size is multiplied by these factors; at the network's size these are the
            loader's images, resized.
        window: slide windows of this size, in image pixels, over the images, and compare at their stored sizes: N,
            (height, width), "HxW", or "auto" for the size of the network's input, which is also what a run that was
            trained on crops gets. None: whole images.
        overlap: of windows, as a share of their side; None for 0.25.
        batch_size: images per batch; has no influence on the scores.
        device, precision: see :func:`petseg.load`.
        world: the processes that share the work (``torchrun``); all must call this, and all get the complete result.
        after_batch: called after each batch with its number of images, all processes' included.

    Raises:
        PetsegError: no such run, set or split, or an option that does not fit.
    """
    check_batch_size(batch_size)
    expect_flags(original_resolution=original_resolution)
    if not isinstance(world, World | None) or not callable(after_batch):
        raise UsageError(f"world must be a World and after_batch a function, not {world!r} and {after_batch!r}")
    world = world or World()
    if batch_size % world.size:
        raise UsageError(f"{option('batch_size', batch_size)} cannot be divided evenly by {world.size} processes")
    options = InferenceOptions.of(window=window, overlap=overlap, scales=scales, flip_tta=flip_tta)
    expect_paths(A_RUN, run=run)
    data = resolve_shards(shards)
    expect_split(data, split)
    predictor = load(run, device=device, precision=precision, size=size, local_rank=world.local_rank)
    return evaluate_predictor(
        predictor,
        data,
        split=split,
        options=options,
        original_resolution=original_resolution,
        batch_size=batch_size,
        world=world,
        after_batch=after_batch,
    )


score_run = evaluate  # its name in version 1


def evaluate_predictor(
    predictor: Predictor,
    data: ShardSet,
    *,
    split: str,
    options: InferenceOptions = WHOLE_IMAGES,
    original_resolution: bool = False,
    batch_size: int = 32,
    world: World | None = None,
    after_batch: Callable[[int], None] = lambda images: None,
) -> Evaluation:
    """Score a network that is loaded already; see :func:`evaluate`."""
    world = world or World()
    expect_split(data, split)
    _check_classes(predictor, data)
    notes = tuple(filter(None, (predictor.window_advice(options), _other_set(predictor, data, split))))
    if world.first:
        for note in notes:
            log.warning("%s", note)
    windows = predictor.window(options)
    with process_group(world, predictor.placement.device), without_replacement():
        if original_resolution or windows is not None:
            reader = data.split(split)
            evaluation = evaluate_stored(
                predictor, reader, options, batch_size=batch_size, world=world, after_batch=after_batch
            )
            return replace(evaluation, notes=notes)
        with Loader(
            data,
            split=split,
            batch_size=batch_size,
            size=predictor.size,
            fit=predictor.recipe.fit,
            device=predictor.placement.device,
            mask="index",
            shuffle=False,
            rank=world.rank,
            world_size=world.size,
        ) as loader:
            evaluation = evaluate_network(
                predictor.model,
                loader,
                placement=predictor.placement,
                world=world,
                options=options,
                after_batch=after_batch,
            )
        return replace(evaluation, notes=notes)


def _other_set(predictor: Predictor, data: ShardSet, split: str) -> str | None:
    """Return what to say where the run was trained on another set, whose splits may be others."""
    found, sets = data.manifest.fingerprint, trained_on(predictor.source)
    others = [each for each in sets if each != found]
    if not others:
        return None
    network = "was" if sets[0] != found else "starts from weights that were"
    return (
        f"{printable(predictor.source)} {network} trained on another set, or on another build or split of this one "
        f"(fingerprint {others[0][:12]}, this one has {found[:12]}): where both hold the same images, it may have been "
        f"trained on those of {split}, and these scores are too high"
    )


def expect_split(data: ShardSet, split: str) -> None:
    """Raise ``UsageError`` unless a set has this split."""
    existing = [name for name in SPLITS if name in data.manifest.splits]
    if split not in existing:
        other = split_to_score(existing)
        raise UsageError(
            f"{data.address} has no split {split!r}; it has: {', '.join(existing)}. Choose one, such as "
            f"{option('split', other)}"
        )


def split_to_score(splits: Collection[str]) -> str:
    """Return which of a set's splits a run is best scored on: test, else val, else train."""
    return next(name for name in reversed(SPLITS) if name in splits)


def _check_classes(predictor: Predictor, data: ShardSet) -> None:
    """Raise ``UsageError`` unless the set has the classes that the network predicts."""
    ours, theirs = predictor.labels.names, data.manifest.labels.names
    if ours != theirs:
        alone = {
            "the run": [name for name in ours if name not in theirs],
            "the set": [name for name in theirs if name not in ours],
        }
        others = "; ".join(f"{who} alone has {listed(names)}" for who, names in alone.items() if names)
        raise UsageError(
            f"{predictor.source} predicts {counted(len(ours), 'class', 'classes')}, {data.address} has {len(theirs)}: "
            f"{others or 'the same ones in another order'}; score it on a set built with the labels of its training set"
        )


def compared_at(storage: Storage, *, original_resolution: bool) -> str:
    """Return where predictions were compared with masks; what jpeg and raw storage keep is not the original."""
    if not original_resolution:
        return "network size"
    return "original resolution" if storage == "source" else "stored size"


def summary(evaluation: Evaluation, *, split: str, compared_at: str) -> dict[str, Any]:
    """Return the JSON object of ``petseg-eval --json``; ``compared_at`` is as the function of that name says."""
    return {
        **msgspec.to_builtins(evaluation.scores),
        "classes": list(evaluation.labels.names),
        "absent": list(evaluation.absent),
        "samples": evaluation.samples,
        "split": split,
        "compared_at": compared_at,
        "size": evaluation.size,
        "precision": evaluation.precision,
        "enlarged_from": evaluation.enlarged_from,
        **evaluation.options.facts(evaluation.window),
        "padded": evaluation.padded,
        "notes": evaluation.notes,
        "confusion": evaluation.matrix.tolist(),
    }


def write_table(
    evaluation: Evaluation, shards: str | Path | ShardSet, split: str, path: Path, *, overwrite: bool = False
) -> None:
    """Write a CSV with one line per sample: index, key, original name, and scores.

    These are mean IoU, IoU and recall of each class, and pixel accuracy; one that does not exist is an empty cell. A
    name that a spreadsheet would take for a formula has a ``'`` before it.
    Raises ``UsageError`` as :func:`expect_free` does, and for a name that does not end in .csv.
    """
    expect_free(path, overwrite=overwrite)
    expect_ending(path, ".csv")
    reader = (shards if isinstance(shards, ShardSet) else ShardSet.open(shards)).split(split)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [f"{kind}_{name}" for kind in ("iou", "recall") for name in evaluation.labels.names]
    writer.writerow(["index", "key", "name", "mean_iou", *columns, "pixel_accuracy"])
    for index in range(evaluation.samples):
        scores = evaluation.scores_of(index)
        row = [scores.mean_iou, *scores.iou, *scores.recall, scores.pixel_accuracy]
        cells = ("" if value is None else f"{value:.6f}" for value in row)
        key = reader.key(index)
        writer.writerow([index, key, _cell(reader.meta(index).get("name", key)), *cells])
    write_atomically(path, text.getvalue(), replace=overwrite)


def _cell(name: Any) -> str:
    """Return a name for a table: on one line, and behind a ``'`` where a spreadsheet would take it for a formula."""
    text = printable(name)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
