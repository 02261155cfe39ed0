"""Which samples a batch holds and how each is augmented, as pure arithmetic.

Nothing in here does I/O or keeps state; everything is a function of seed, epoch, sample and rank.
"""

from pipeline.order.augmentation import Augmentation, Parameters, draw_parameters
from pipeline.order.epoch_order import EpochOrder, Shuffle, Shuffling
from pipeline.order.permutation import BatchSlices, permutation

__all__ = [
    "Augmentation",
    "BatchSlices",
    "EpochOrder",
    "Parameters",
    "Shuffle",
    "Shuffling",
    "draw_parameters",
    "permutation",
]
