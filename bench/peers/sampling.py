"""Order and augmentation parameters for peers that have none of their own: ours, drawn beforehand, for nothing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from bench.peers.job import Job
from bench.peers.base import EPOCHS_DRAWN
from pipeline.order.augmentation import Augmentation, Parameters, colour_matrices, draw_parameters
from pipeline.order.permutation import permutation


class EpochSampler:
    """A sampler for ``torch.utils.data.DataLoader``: all samples in the order of an epoch that can be set.

    It yields ``(number % EPOCHS_DRAWN) * samples + index``, so that workers that live longer than an epoch know which
    parameters to use.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self.number = 0

    def __len__(self) -> int:
        return self._job.samples

    def __iter__(self) -> Iterator[int]:
        order = permutation(self._job.seed, self.number, self._job.samples)
        return iter((order + self.number % EPOCHS_DRAWN * self._job.samples).tolist())


class Drawn:
    """The augmentation of every sample in :data:`EPOCHS_DRAWN` epochs.

    Attributes:
        boxes: int32 (epochs, samples, 4): top, left, height, width in pixels of the stored picture.
        flip: bool (epochs, samples).
        matrices: float32 (epochs, samples, 3, 4): colour, ``m[:, :3] @ rgb + m[:, 3]``.
    """

    def __init__(self, job: Job) -> None:
        from shards.format.dataset import ShardSet

        shard_set = ShardSet.open(job.shards)
        reader = shard_set.split(job.split)
        rows = reader.rows(np.arange(len(reader)))
        stored = shard_set.manifest.size
        sizes = [rows[side].astype(np.int64) if stored is None else np.full(len(rows), stored)
                 for side in ("height", "width")]  # fmt: skip
        drawn = [
            draw_parameters(
                Augmentation(), seed=job.seed, epoch=epoch, indices=np.arange(len(rows)), heights=sizes[0],
                widths=sizes[1],
            )
            for epoch in range(EPOCHS_DRAWN)
        ]  # fmt: skip
        self.boxes: npt.NDArray[np.int32] = np.stack([parameters.boxes for parameters in drawn])
        self.flip: npt.NDArray[np.bool_] = np.stack([parameters.flip for parameters in drawn])
        self.matrices: npt.NDArray[np.float32] = np.stack([_matrices(parameters) for parameters in drawn])


def _matrices(parameters: Parameters) -> npt.NDArray[np.float32]:
    matrix, offset = colour_matrices(parameters)
    return np.concatenate([matrix, offset[:, :, None]], axis=2)
