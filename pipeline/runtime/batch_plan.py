"""What is to be made, batch after batch and epoch after epoch: which samples, and what is done to each.

It goes on over the edge of an epoch: the order of the next one is arithmetic, so it can be read ahead like any batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.engine import Work
from pipeline.io.members import MemberReader
from pipeline.order.augmentation import Augmentation, draw_parameters, find_impossible
from pipeline.order.permutation import Indices, Plan, permutation
from shards.errors import PetsegError
from shards.format.dataset import SplitReader

BLOCK = 1024  # samples: table rows and random numbers come cheaper by the thousand


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Which samples a batch holds and which of them count."""

    epoch: int
    number: int
    indices: Indices
    valid: npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One batch that is to be made: its labels, its work, and the order of its epoch, (N,)."""

    labels: Labels
    work: Work
    order: Indices


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A pure function of its attributes.

    Attributes:
        split: whose samples.
        reader: of its members; told when open files may be closed, and asked for a sample's name.
        plan: how samples fall into batches.
        seed: of the order and of the augmentation.
        shuffle: whether each epoch has its own order.
        augment: which changes are drawn; None: none.
        stored_size: side of a stored picture in pixels; None: each has its own, in the table.
    """

    split: SplitReader
    reader: MemberReader
    plan: Plan
    seed: int
    shuffle: bool
    augment: Augmentation | None
    stored_size: int | None

    @property
    def alike(self) -> bool:
        """Whether all epochs are the same but for their number."""
        return not self.shuffle and self.augment is None

    def steps(self, epoch: int, first: int, *, endless: bool) -> Iterator[Step]:
        """Yield the batches of an epoch from number ``first`` on; with ``endless``, those of all later epochs too.

        Raises:
            PetsegError: the table of samples is damaged, or no engine could apply what was drawn.
        """
        while True:
            yield from self._epoch(epoch, first)
            if not endless:
                return
            epoch, first = epoch + 1, 0

    def order(self, epoch: int) -> Indices:
        """Return the order of an epoch, int64 (N,)."""
        if self.shuffle:
            return permutation(self.seed, epoch, self.plan.samples)
        return np.arange(self.plan.samples, dtype=np.int64)

    def work(self, indices: Indices, epoch: int) -> Work:
        """Return what an engine has to do for samples (B,) in an epoch."""
        rows = self.split.rows(indices)
        stored = self.stored_size
        heights = rows["height"].astype(np.int64) if stored is None else np.full(len(rows), stored)
        widths = rows["width"].astype(np.int64) if stored is None else np.full(len(rows), stored)
        parameters = draw_parameters(
            self.augment, seed=self.seed, epoch=epoch, indices=indices, heights=heights, widths=widths
        )
        impossible = find_impossible(parameters, heights=heights, widths=widths)
        if impossible is not None:
            place, problem = impossible
            raise PetsegError(
                f"{self.reader.place(int(indices[place]), 'image')}: {problem}, in epoch {epoch} with seed "
                f"{self.seed}; load without augmentation, and run petseg-shard verify"
            )
        self.reader.trim()
        return Work(indices=indices, rows=rows, parameters=parameters)

    def _epoch(self, epoch: int, first: int) -> Iterator[Step]:
        """Labels and work are made for many batches at once."""
        order = self.order(epoch)
        width = len(self.plan.slice)
        at_once = max(1, BLOCK // max(1, width))  # no places: more ranks than samples in a batch
        for start in range(first, self.plan.batches, at_once):
            numbers = range(start, min(start + at_once, self.plan.batches))
            parts = [self.plan.indices(order, number) for number in numbers]
            indices, valid = (np.concatenate(each) for each in zip(*parts, strict=True))
            work = self.work(indices, epoch)
            for place, number in enumerate(numbers):
                places = slice(place * width, (place + 1) * width)
                # Copies, so that a batch that is kept does not keep the whole block.
                labels = Labels(epoch=epoch, number=number, indices=indices[places].copy(), valid=valid[places].copy())
                yield Step(labels=labels, work=work.part(places), order=order)
