"""The loaders of a run's training and validation images, and the size and augmentation of an epoch's images.

Progressive resizing: small images in the first epochs, full size in the last. Half the size costs a quarter.
Howard's fast.ai entries to DAWNBench (2018); Tan and Le, EfficientNetV2 (2021).

Flips alone in the last epochs: random crops show objects larger than the images to be predicted do, and a network, and
its batch normalisation, should end with those (Touvron et al., Fixing the train-test resolution discrepancy, 2019; Ge
et al., YOLOX, 2021, whose last epochs are without mosaic and mixup).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from petseg.host.distributed import World
from petseg.nets.model_config import MIN_SIZE
from petseg.report.console_reporter import Reporter
from petseg.runs.recipe import Recipe
from petseg.runs.run_config import RunConfig
from pipeline import Augmentation, Loader
from pipeline.arguments import MAX_BATCH
from pipeline.order.augmentation import NO_AUGMENTATION
from shards.errors import counted, listed
from shards.format.geometry import Size
from shards.store.store_protocol import repeated_text

_EVALUATION_BATCH = 2  # times the training batch: evaluation needs no memory for gradients
# (share of the epochs at which the stage ends, share of the full size)
_STAGES = ((0.4, 0.5), (0.7, 0.75), (1.0, 1.0))
_MULTIPLE = 16  # the stride of the U-Net's coarsest level, so that the network need not pad


def size_of_epoch(recipe: Recipe, epoch: int) -> Size:
    """Return the height and the width, in pixels, of the images of an epoch (from 0)."""
    if not recipe.progressive:
        return recipe.size
    share = next(size for end, size in _STAGES if epoch + 1 <= end * recipe.epochs or end == 1.0)
    if share == 1.0:
        return recipe.size
    height, width = (min(side, max(MIN_SIZE, round(side * share / _MULTIPLE) * _MULTIPLE)) for side in recipe.size)
    return height, width


def augmentation_of_epoch(recipe: Recipe, epoch: int) -> Augmentation | None:
    """Return how the images of an epoch (from 0) are varied: in the last ones they are only flipped.

    With ``crop_scale`` the place of a crop is drawn even where nothing else is varied.
    """
    if recipe.augment == "none":
        return None if recipe.crop_scale is None else NO_AUGMENTATION
    augmentation = Augmentation.preset(recipe.augment)
    plain = epoch >= (1 - recipe.plain_share) * recipe.epochs
    return replace(NO_AUGMENTATION, flip=augmentation.flip) if plain else augmentation


def train_loader_of_epoch(config: RunConfig, epoch: int, *, opened: Loader | None = None) -> Loader:
    """Return this rank's loader of the training images, with the size and the augmentation of an epoch (from 0).

    That is ``opened`` if it has them; otherwise that one is closed.
    """
    recipe = config.recipe
    size, augmentation = size_of_epoch(recipe, epoch), augmentation_of_epoch(recipe, epoch)
    if opened is not None:
        if (opened.size, opened.augment) == (size, augmentation):
            return opened
        opened.close()
    return _open(
        config,
        split="train",
        batch_size=recipe.batch_size,
        size=size,
        seed=recipe.seed,
        drop_last=recipe.drop_last,
        shuffle=recipe.shuffle,
        shuffle_window=recipe.shuffle_window,
        augment=augmentation,
        decode=recipe.decode,
    )


def open_validation_loader(config: RunConfig) -> Loader | None:
    """Return this rank's loader of the unmodified validation images, or None if the set has no ``val`` split.

    With ``crop_scale`` these are their centres at the run's size: every epoch ends with a validation, which must not
    take longer than the training. ``petseg-eval`` scores the whole images.
    """
    if "val" not in config.data.manifest.splits:
        return None
    batch_size = config.recipe.batch_size * _EVALUATION_BATCH
    if batch_size > MAX_BATCH:
        batch_size = config.recipe.batch_size
    return _open(config, split="val", batch_size=batch_size, size=config.recipe.size)


def note_reading(reporter: Reporter, loaders: Sequence[Loader | None], world: World) -> int:
    """Say what the loaders of all ranks have replaced and repeated so far; return how many samples. All must call this.

    The loaders of a run have its set in common, whose requests to an object store are counted together.
    """
    own = [loader for loader in loaders if loader is not None]
    keys = [loader.key(index) for loader in own for index in loader.damaged]
    replaced, repeated = set[str](), Counter[str]()
    for rank_keys, requests in world.gather((keys, dict(own[0].retries) if own else {})):
        replaced.update(rank_keys)
        repeated.update(requests)
    if replaced:
        reporter.note(f"{counted(len(replaced), 'damaged sample')} replaced so far: {listed(sorted(replaced))}")
    if repeated:
        reporter.note(f"{repeated_text(repeated)} (so far)")
    return len(replaced)


def _open(config: RunConfig, **arguments: Any) -> Loader:
    return Loader(
        config.data,
        fit=config.recipe.fit,
        crop_scale=config.recipe.crop_scale,
        device=config.placement.device,
        mask="index",
        rank=config.world.rank,
        world_size=config.world.size,
        prefetch=config.runtime.prefetch,
        processes=0,  # on a CPU the network, not the loader, sets the pace
        engine=config.runtime.engine,
        on_error=config.runtime.on_error,
        max_damaged=config.runtime.max_damaged,
        **arguments,
    )
