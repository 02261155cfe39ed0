"""Scoring a network on every sample of a split, each exactly once, over any number of ranks."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from petseg.host.device import Placement, UsedPrecision
from petseg.host.distributed import World
from petseg.inference.metrics import Matrix, Scores, class_counts, confusion, predicted_class, score, score_counts
from petseg.inference.network_inputs import WHOLE_IMAGES, InferenceOptions
from petseg.inference.probabilities import class_probabilities, compute_logits, not_finite
from pipeline import Batch, Loader
from shards.errors import counted
from shards.format.geometry import Size
from shards.format.labels import Labels

# The sum of the loss over a batch's valid samples, from its logits.
LossSum = Callable[[torch.Tensor, Batch], torch.Tensor]


@dataclass(frozen=True)
class Evaluation:
    """A network's results on a split.

    Attributes:
        labels: the classes.
        matrix: the confusion matrix of the whole split: int64 (N, N), [true, predicted], pixels.
        counts: the correct, the true and the predicted pixels of each class in each sample, in split order: int64
            (samples, 3, N).
        loss: mean over the valid samples, or None if no loss was given.
        size: of the images given to the network, (height, width).
        precision: of convolutions, that it ran at.
        options: what was averaged.
        window: the windows that were used, (height, width) in image pixels; None: whole images.
        padded: how many of the images are smaller than a window, and were padded to it.
        original_resolution: whether masks were compared at their stored size, not at the network's.
        enlarged_from: the size of the set's images and masks, (height, width), where the network's is larger.
        notes: what is to be known of these results: of windows that show images unlike training did, and of another set
            than that of the training.
    """

    labels: Labels
    matrix: Matrix
    counts: Matrix
    loss: float | None
    size: Size
    precision: UsedPrecision
    options: InferenceOptions = WHOLE_IMAGES
    window: Size | None = None
    padded: int = 0
    original_resolution: bool = False
    enlarged_from: Size | None = None
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        classes = counted(len(self.labels), "class", "classes")
        mean = self.scores.mean_iou
        return f"<Evaluation: mean IoU {mean:.4f} of {classes} on {counted(self.samples, 'image')}>"

    @property
    def scores(self) -> Scores:
        """The scores of the whole split."""
        return score(self.matrix, self.labels)

    @property
    def samples(self) -> int:
        """The number of samples."""
        return len(self.counts)

    @property
    def absent(self) -> tuple[str, ...]:
        """The classes without any true pixel that are predicted somewhere: their IoU and Dice of 0 are in the means."""
        found = (self.matrix.sum(axis=1) == 0) & (self.matrix.sum(axis=0) > 0)
        return tuple(name for name, missing in zip(self.labels.names, found.tolist(), strict=True) if missing)

    def scores_of(self, sample: int) -> Scores:
        """Return the scores of one sample, by its index; without binary ones."""
        return score_counts(self.counts[sample])


class PixelTally:
    """Counts the pixels of this rank's samples, without waiting for the device, and puts all ranks' counts together."""

    def __init__(self, classes: int, device: torch.device) -> None:
        self._total = torch.zeros(classes, classes, dtype=torch.int64, device=device)
        self._indices: list[torch.Tensor] = []
        self._valid: list[torch.Tensor] = []
        self._counts: list[torch.Tensor] = []

    def add(self, index: torch.Tensor, valid: torch.Tensor, matrices: torch.Tensor) -> None:
        """Add samples by their index, int64 (B,) on the CPU; those not ``valid``, bool (B,), are not counted.

        ``matrices`` are their confusion matrices, int64 (B, N, N), on the device.
        """
        self._total += (matrices * valid.view(-1, 1, 1)).sum(dim=0)
        self._indices.append(index)
        self._valid.append(valid)
        self._counts.append(class_counts(matrices))

    def gather(self, world: World, *, samples: int) -> tuple[Matrix, Matrix]:
        """Return the confusion matrix of all ranks' samples, and each sample's counts: see :class:`Evaluation`."""
        classes = len(self._total)
        total: Matrix = np.zeros((classes, classes), np.int64)
        counts: Matrix = np.zeros((samples, 3, classes), np.int64)
        mine = np.zeros(0, np.int64), np.zeros((0, 3, classes), np.int64)
        if self._indices:
            valid = torch.cat(self._valid).cpu().numpy()
            mine = torch.cat(self._indices).numpy()[valid], torch.cat(self._counts).cpu().numpy()[valid]
        for matrix, (where, what) in world.gather((self._total.cpu().numpy(), mine)):
            total += matrix
            counts[where] = what
        return total, counts


def evaluate(
    model: nn.Module,  # in evaluation mode, on the loader's device
    loader: Loader,  # one epoch of it is read; masks are class indices
    *,
    placement: Placement,
    world: World | None = None,
    loss_sum: LossSum | None = None,
    options: InferenceOptions = WHOLE_IMAGES,  # for the scores, not for the loss; without windows
    after_batch: Callable[[int], None] = lambda images: None,
) -> Evaluation:
    """Score a network at the loader's size; every rank of ``world`` must call this and gets the complete result.

    ``after_batch`` is called after each batch with its number of images, all ranks' included; it may raise to stop, if
    it does so on all ranks. Without ``loss_sum``, which would show it, ``PetsegError`` for outputs that are not finite.
    """
    world = world or World()
    labels = loader.labels
    tally = PixelTally(len(labels), placement.device)
    # The sum of the loss, of how many images, and of how many batches the outputs are not finite.
    sums = torch.zeros(3, dtype=torch.float64, device=placement.device)
    for number, batch in enumerate(loader):
        if len(batch.index):
            logits = compute_logits(model, batch.image, placement=placement)
            if loss_sum is not None:
                sums[:2] += torch.stack([loss_sum(logits, batch), batch.valid.sum()])
            if options != WHOLE_IMAGES:
                logits = class_probabilities(
                    model, batch.image, placement=placement, flip_tta=options.flip_tta, scales=options.scales
                )
            sums[2] += ~torch.isfinite(logits).all()
            matrices = confusion(batch.mask, predicted_class(logits), classes=len(labels))
            tally.add(batch.index, batch.valid, matrices)
        after_batch(loader.valid_in_batch(number))
    matrix, counts = tally.gather(world, samples=loader.samples)
    total, images, broken = world.sum(sums).tolist()
    if broken and loss_sum is None:
        raise not_finite(placement)
    mean = None if loss_sum is None else total / max(images, 1.0)
    stored = loader.shards.manifest.size
    enlarged = stored is not None and any(side > own for side, own in zip(loader.size, stored, strict=True))
    return Evaluation(
        labels=labels,
        matrix=matrix,
        counts=counts,
        loss=mean,
        size=loader.size,
        precision=placement.precision,
        options=options,
        enlarged_from=stored if enlarged else None,
    )
