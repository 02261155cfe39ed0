"""The loaders of a run's training and validation images."""

from typing import Any

from petseg.runs.run_config import RunConfig
from pipeline import Loader
from shards.format.geometry import Size

_EVALUATION_BATCH = 2  # times the training batch: evaluation needs no memory for gradients


def open_train_loader(config: RunConfig, *, size: Size) -> Loader:
    """Return this rank's loader of the training images at ``size`` (height, width): shuffled and augmented."""
    recipe = config.recipe
    return _open(
        config,
        split="train",
        batch_size=recipe.batch_size,
        size=size,
        seed=recipe.seed,
        drop_last=recipe.drop_last,
        augment=None if recipe.augment == "none" else recipe.augment,
    )


def open_validation_loader(config: RunConfig) -> Loader | None:
    """Return this rank's loader of the unmodified validation images, or None if the set has no ``val`` split."""
    if "val" not in config.data.manifest.splits:
        return None
    batch_size = config.recipe.batch_size * _EVALUATION_BATCH
    return _open(config, split="val", batch_size=batch_size, size=config.recipe.size)


def _open(config: RunConfig, **arguments: Any) -> Loader:
    return Loader(
        config.data,
        fit=config.recipe.fit,
        device=config.placement.device,
        mask="index",
        rank=config.world.rank,
        world_size=config.world.size,
        prefetch=config.runtime.prefetch,
        engine=config.runtime.engine,
        **arguments,
    )
