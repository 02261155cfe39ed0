"""Scoring a trained run on a split of any shard set: what petseg-eval does."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch

from petseg.host.distributed import World, process_group
from petseg.inference.evaluation import Evaluation, count_at_network_size, evaluate
from petseg.inference.metrics import CLASS_NAMES, confusion, likeliest_class, score
from petseg.inference.predictor import load, resize_probabilities
from petseg.inference.stored_samples import read_trimap
from shards import ShardSet, SplitReader, UsageError
from shards.store.atomic import write_atomically

if TYPE_CHECKING:
    from pipeline import Batch


def score_run(
    run: str | Path,
    shards: str | Path,
    *,
    split: str = "test",
    size: int | None = None,
    own_size: bool = False,
    mirror: bool = False,
    batch_size: int = 32,
    device: str = "auto",
    precision: Any = "auto",
    world: World | None = None,
    after_batch: Callable[[int], None] = lambda pictures: None,
) -> Evaluation:
    """Score a run on every sample of a split.

    Args:
        run: a run's folder, or a checkpoint.
        shards: a shard set.
        split: of that set.
        size: side of the pictures given to the network; None for the size of its training.
        own_size: compare at the trimaps' stored resolution instead of at the network's.
        mirror: average with the mirrored pictures' predictions.
        batch_size: pictures at a time; has no influence on the scores.
        device: see :func:`petseg.load`.
        precision: see :func:`petseg.load`.
        world: the processes that share the work (``torchrun``); all must call this, and all get the whole result.
        after_batch: told the number of pictures after each batch, all processes' together.

    Raises:
        PetsegError: no such run, set or split, or an option that does not fit.
    """
    from pipeline import Loader

    if batch_size < 1:
        raise UsageError(f"--batch-size {batch_size}: give a number from 1")
    world = world or World()
    if batch_size % world.size:
        raise UsageError(f"--batch-size {batch_size} cannot be shared evenly by {world.size} processes")
    predictor = load(run, device=device, precision=precision, size=size, local_rank=world.local_rank)
    data = ShardSet.open(shards)
    reader = data.split(split)
    with (
        process_group(world, predictor.placement.device),
        Loader(
            data,
            split=split,
            batch_size=batch_size,
            size=predictor.size,
            device=predictor.placement.device,
            mask="index",
            shuffle=False,
            rank=world.rank,
            world_size=world.size,
        ) as loader,
    ):
        return evaluate(
            predictor.model,
            loader,
            placement=predictor.placement,
            world=world,
            mirror=mirror,
            count=_own_size_counter(reader) if own_size else count_at_network_size,
            after_batch=after_batch,
        )


def _own_size_counter(split: SplitReader) -> Callable[[Batch, torch.Tensor], torch.Tensor]:
    """Return a counter that resizes each sample's probabilities to its trimap and compares there."""

    def count(batch: Batch, probabilities: torch.Tensor) -> torch.Tensor:
        matrices = []
        for index, coarse in zip(batch.index.tolist(), probabilities, strict=True):
            truth = torch.from_numpy(np.array(read_trimap(split, index))).to(coarse.device)
            fine = resize_probabilities(coarse[None], *truth.shape)
            matrices.append(confusion(truth[None], likeliest_class(fine)))
        return torch.cat(matrices)

    return count


def summary(evaluation: Evaluation, *, split: str, own_size: bool, mirror: bool) -> dict[str, Any]:
    """Return the JSON object of ``petseg-eval --json``."""
    return {
        **msgspec.to_builtins(evaluation.scores),
        "samples": evaluation.samples,
        "split": split,
        "compared_at": "own size" if own_size else "network size",
        "mirror": mirror,
        "confusion": evaluation.matrix.tolist(),
    }


def write_table(evaluation: Evaluation, shards: str | Path, split: str, path: Path) -> None:
    """Write a CSV with one line a sample: key, mean IoU, of each class IoU and accuracy (or nothing), accuracy."""
    reader = ShardSet.open(shards).split(split)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [f"{kind}_{name}" for kind in ("iou", "accuracy") for name in CLASS_NAMES]
    writer.writerow(["index", "key", "mean_iou", *columns, "pixel_accuracy"])
    for index, matrix in enumerate(evaluation.matrices):
        scores = score(matrix)
        row = [scores.mean_iou, *scores.iou, *scores.accuracy, scores.pixel_accuracy]
        writer.writerow([index, reader.key(index), *("" if value is None else f"{value:.6f}" for value in row)])
    write_atomically(path, text.getvalue())
