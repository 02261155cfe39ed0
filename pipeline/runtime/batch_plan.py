"""The batches of all epochs in order: which samples each holds, and what is applied to them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.engine import BatchWork, EngineOptions, stored_sizes
from pipeline.io.members import MemberReader
from pipeline.order.augmentation import draw_parameters, find_invalid
from pipeline.order.epoch_order import EpochOrder, Shuffling
from pipeline.order.permutation import BatchSlices, Indices
from shards.errors import PetsegError

BLOCK = 1024  # samples: table rows and random numbers are cheaper by the thousand


@dataclass(frozen=True, kw_only=True)
class BatchIndices:
    """Which samples a batch holds, (B,), which of them are valid, and the order of its epoch."""

    epoch: int
    number: int
    indices: Indices
    valid: npt.NDArray[np.bool_]
    order: EpochOrder


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """A pure function of its attributes."""

    reader: MemberReader
    slices: BatchSlices
    options: EngineOptions
    seed: int  # of the order and of the augmentation
    shuffle: Shuffling

    @property
    def same_every_epoch(self) -> bool:
        """Whether all epochs are identical."""
        return not self.shuffle.every_epoch and self.options.augment is None

    def batches(self, epoch: int, first: int, *, endless: bool) -> Iterator[tuple[BatchIndices, BatchWork]]:
        """Yield the batches of an epoch from number ``first`` on; with ``endless``, those of all later epochs too."""
        while True:
            yield from self._epoch(epoch, first)
            if not endless:
                return
            epoch, first = epoch + 1, 0

    def work(self, indices: Indices, epoch: int) -> BatchWork:
        """Return what an engine has to do for samples (B,) in an epoch."""
        rows = self.reader.split.rows(indices)
        heights, widths = stored_sizes(rows, self.options.stored_size)
        parameters = draw_parameters(
            self.options.augment,
            seed=self.seed,
            epoch=epoch,
            indices=indices,
            heights=heights,
            widths=widths,
            size=self.options.size,
            fit=self.options.fit,
            crop_scale=self.options.crop_scale,
        )
        invalid = find_invalid(parameters, heights=heights, widths=widths, size=self.options.size)
        if invalid is not None:
            position, problem = invalid
            problem = f"{problem}, in epoch {epoch} with seed {self.seed}"
            text = self.reader.describe(int(indices[position]), "image", problem)
            raise PetsegError(f"{text}; load without augmentation, and run petseg-shard verify")
        return BatchWork.of(indices=indices, rows=rows, parameters=parameters)

    def _epoch(self, epoch: int, first: int) -> Iterator[tuple[BatchIndices, BatchWork]]:
        """Indices and work are made for many batches at once."""
        order = self.shuffle.order(self.seed, epoch, starts=self.reader.split.starts)
        width = len(self.slices.slice)
        at_once = max(1, BLOCK // max(1, width))  # the width is 0 with more ranks than samples in a batch
        for start in range(first, self.slices.batches, at_once):
            numbers = range(start, min(start + at_once, self.slices.batches))
            indices, valid = self.slices.indices(order, start, len(numbers))
            work = self.work(indices, epoch)
            for place, number in enumerate(numbers):
                part = slice(place * width, (place + 1) * width)
                # Copies, so that a batch that is kept does not keep the whole block.
                chosen, marks = indices[part].copy(), valid[part].copy()
                kept = BatchIndices(epoch=epoch, number=number, order=order, indices=chosen, valid=marks)
                yield kept, work.part(part)
