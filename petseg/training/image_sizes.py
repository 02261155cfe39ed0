"""Progressive size: small pictures while the network learns what an animal is, full ones for its outline.

A step at half the size costs a quarter. The idea is that of Howard's fast.ai DAWNBench entries (2018) and of Tan and
Le's EfficientNetV2 (2021).
"""

from __future__ import annotations

from petseg.nets.model_config import MIN_SIZE
from petseg.runs.recipe import Recipe

# (share of the epochs at which the stage ends, share of the full size)
_STAGES = ((0.4, 0.5), (0.7, 0.75), (1.0, 1.0))
_MULTIPLE = 16  # the U-Net's coarsest level, so that no stage is padded within the network


def size_of_epoch(recipe: Recipe, epoch: int) -> int:
    """Return the side, in pixels, of the pictures of an epoch (counted from 0)."""
    if not recipe.progressive:
        return recipe.size
    share = next(size for end, size in _STAGES if epoch + 1 <= end * recipe.epochs or end == 1.0)
    if share == 1.0:
        return recipe.size
    return min(recipe.size, max(MIN_SIZE, round(recipe.size * share / _MULTIPLE) * _MULTIPLE))
