"""What a run reads: its loaders of training and of validation pictures."""

from __future__ import annotations

import torch

from petseg.host.distributed import World
from petseg.runs.recipe import Recipe, Running
from pipeline import Loader
from shards import ShardSet

_EVALUATION_BATCH = 2  # evaluation keeps no gradients, so it takes so many times the training batch at once


def open_train_loader(
    shards: ShardSet, recipe: Recipe, running: Running, *, size: int, device: torch.device, world: World
) -> Loader:
    """Return the loader of the training pictures at ``size`` pixels a side: shuffled, augmented, this rank's share."""
    return Loader(
        shards,
        split="train",
        batch_size=recipe.batch_size,
        size=size,
        device=device,
        seed=recipe.seed,
        mask="index",
        augment=None if recipe.augment == "none" else recipe.augment,
        rank=world.rank,
        world_size=world.size,
        prefetch=running.prefetch,
        engine=running.engine,
    )


def open_validation_loader(
    shards: ShardSet, recipe: Recipe, running: Running, *, device: torch.device, world: World
) -> Loader | None:
    """Return the loader of the validation pictures as they are, or None where the set has no ``val`` split."""
    if "val" not in shards.manifest.splits:
        return None
    return Loader(
        shards,
        split="val",
        batch_size=recipe.batch_size * _EVALUATION_BATCH,
        size=recipe.size,
        device=device,
        mask="index",
        rank=world.rank,
        world_size=world.size,
        prefetch=running.prefetch,
        engine=running.engine,
    )
