"""Progressive resizing: small images in the first epochs, full size in the last. Half the size costs a quarter.

Howard's fast.ai entries to DAWNBench (2018); Tan and Le, EfficientNetV2 (2021).
"""

from petseg.nets.model_config import MIN_SIZE
from petseg.runs.recipe import Recipe
from shards.format.geometry import Size

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
