"""Scoring a trained run on a split of any shard set, as ``petseg-eval`` does."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch

from petseg.host.device import Precision
from petseg.host.distributed import World, process_group
from petseg.inference.evaluation import Counter, Evaluation, count_at_network_size
from petseg.inference.evaluation import evaluate as evaluate_network
from petseg.inference.metrics import confusion, predicted_class, score
from petseg.inference.probabilities import resize_probabilities
from petseg.inference.stored_samples import read_mask
from petseg.inference.trained_network import load
from pipeline import Batch, Loader
from shards import ShardSet, SplitReader, UsageError
from shards.format.layout import CLASSES
from shards.store.atomic import write_atomically


def evaluate(
    run: str | Path,
    shards: str | Path,
    *,
    split: str = "test",
    size: int | None = None,
    original_resolution: bool = False,
    flip_tta: bool = False,
    batch_size: int = 32,
    device: str = "auto",
    precision: Precision = "auto",
    world: World | None = None,
    after_batch: Callable[[int], None] = lambda images: None,
) -> Evaluation:
    """Score a run on every sample of a split, as ``petseg-eval``.

    Args:
        run: a run's folder, or a checkpoint.
        shards: a shard set.
        split: of that set.
        size: side of the images given to the network, pixels; None for the size of its training.
        original_resolution: compare at the masks' stored resolution instead of at the network's.
        flip_tta: average with the predictions of the horizontally flipped images.
        batch_size: images per batch; has no influence on the scores.
        device, precision: see :func:`petseg.load`.
        world: the processes that share the work (``torchrun``); all must call this, and all get the complete result.
        after_batch: called after each batch with its number of images, all processes' included.

    Raises:
        PetsegError: no such run, set or split, or an option that does not fit.
    """
    if batch_size < 1:
        raise UsageError(f"--batch-size {batch_size}: give a number from 1")
    world = world or World()
    if batch_size % world.size:
        raise UsageError(f"--batch-size {batch_size} cannot be divided evenly by {world.size} processes")
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
        return evaluate_network(
            predictor.model,
            loader,
            placement=predictor.placement,
            world=world,
            flip_tta=flip_tta,
            count=_original_resolution_counter(reader) if original_resolution else count_at_network_size,
            after_batch=after_batch,
        )


score_run = evaluate  # its name in version 1


def _original_resolution_counter(split: SplitReader) -> Counter:
    """Return a counter that resizes each sample's probabilities to its stored mask and compares there."""

    def count(batch: Batch, probabilities: torch.Tensor) -> torch.Tensor:
        matrices = []
        for index, coarse in zip(batch.index.tolist(), probabilities, strict=True):
            truth = torch.from_numpy(read_mask(split, index)).to(coarse.device)
            fine = resize_probabilities(coarse[None], *truth.shape)
            matrices.append(confusion(truth[None], predicted_class(fine)))
        return torch.cat(matrices)

    return count


def summary(evaluation: Evaluation, *, split: str, original_resolution: bool, flip_tta: bool) -> dict[str, Any]:
    """Return the JSON object of ``petseg-eval --json``."""
    return {
        **msgspec.to_builtins(evaluation.scores),
        "samples": evaluation.samples,
        "split": split,
        "compared_at": "original resolution" if original_resolution else "network size",
        "flip_tta": flip_tta,
        "confusion": evaluation.matrix.tolist(),
    }


def write_table(evaluation: Evaluation, shards: str | Path, split: str, path: Path) -> None:
    """Write a CSV with one line per sample: index, key, mean IoU, IoU and recall of each class, pixel accuracy.

    The columns of the recall are named ``accuracy_CLASS``. A score that does not exist is an empty cell.
    """
    reader = ShardSet.open(shards).split(split)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [f"{kind}_{name}" for kind in ("iou", "accuracy") for name in CLASSES]
    writer.writerow(["index", "key", "mean_iou", *columns, "pixel_accuracy"])
    for index, matrix in enumerate(evaluation.matrices):
        scores = score(matrix)
        row = [scores.mean_iou, *scores.iou, *scores.accuracy, scores.pixel_accuracy]
        writer.writerow([index, reader.key(index), *("" if value is None else f"{value:.6f}" for value in row)])
    write_atomically(path, text.getvalue())
