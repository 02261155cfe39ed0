"""Before a loader is timed: does it deliver every sample once, and the same pixels as petseg's?"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.peers.peer import Delivered, Job
from bench.results.records import OutputCheck
from shards.errors import PetsegError
from shards.format.labels import IGNORE

MAX_COMPARED = 512  # samples whose pixels are compared; all are counted
IMAGE_SAME = 1.5  # mean absolute difference in levels of 0..255; PIL and DALI with the same filter differ by about 0.3
IMAGE_LIKE = 12.0  # the most for a loader that declares another filter, scaling or compression

Pixels = npt.NDArray[np.uint8]


class CheckError(PetsegError):
    """A benchmark subject failed, or did not deliver what it should; it is not timed."""


@dataclass(frozen=True)
class Reference:
    """What some samples should look like."""

    index: npt.NDArray[np.int64]  # (M,): which samples of the split
    image: Pixels  # (M, 3, H, W)
    mask: Pixels  # (M, H, W): class indices, and 255 where a pixel is ignored


def collect_reference(batches: Iterable[Delivered], job: Job) -> Reference:
    """Keep a random part of an epoch, at most :data:`MAX_COMPARED` samples."""
    chosen = np.sort(np.random.default_rng(job.seed).permutation(job.samples)[:MAX_COMPARED])
    found = Reference(chosen, *(np.empty((len(chosen), *shape, *job.size), np.uint8) for shape in ((3,), ())))
    for batch in batches:
        places, images, masks = _compared(batch, chosen, job)
        found.image[places], found.mask[places] = images, masks
    return found


def check_epoch(batches: Iterable[Delivered], job: Job, reference: Reference) -> OutputCheck:
    """Run through one epoch; count every sample and compare those that the reference holds.

    A :class:`CheckError` says that a tensor has another shape or type, a mask is not of the requested form, or an index
    is not one of the split.
    """
    seen, differences, wrong, pixels = np.zeros(job.samples, dtype=np.int64), list[float](), 0, 0
    for batch in batches:
        index = batch.index[batch.index >= 0]
        if index.max(initial=0) >= job.samples:
            raise CheckError(f"delivered sample {index.max()} of a split of {job.samples}")
        np.add.at(seen, index, 1)
        places, images, masks = _compared(batch, reference.index, job)
        gap = np.abs(images.astype(np.int16) - reference.image[places])
        differences += gap.mean(axis=(1, 2, 3), dtype=np.float64).tolist()
        wrong += int((masks != reference.mask[places]).sum())
        pixels += masks.size
    return OutputCheck(
        delivered=int(seen.sum()), missing=int((seen == 0).sum()), repeated=int(np.maximum(seen - 1, 0).sum()),
        compared=len(differences), image_difference=float(np.mean(differences)) if differences else 0.0,
        image_worst=max(differences, default=0.0), mask_difference=wrong / pixels if pixels else 0.0,
    )  # fmt: skip


def judge(check: OutputCheck, *, image_differs: bool) -> None:
    """Refuse a loader whose epoch is not complete or whose masks differ; images may differ where that is declared."""
    if check.missing or check.repeated:
        raise CheckError(
            f"an epoch of {check.delivered} samples left out {check.missing} and repeated {check.repeated}; "
            "a loader must deliver every sample exactly once"
        )
    most = IMAGE_LIKE if image_differs else IMAGE_SAME
    if check.image_difference > most:
        raise CheckError(
            f"its images differ from petseg's by {check.image_difference:.2f} levels on average, at most {most} are "
            f"allowed{'' if image_differs else ' for a loader that declares no difference'}"
        )
    if check.mask_difference:
        raise CheckError(f"{check.mask_difference:.3%} of its mask pixels have another class than petseg's; none may")


def mask_classes(mask: Pixels, classes: int) -> Pixels:
    """Return masks of either form as class indices and 255, uint8 (B, H, W)."""
    if mask.ndim == 3:
        unknown = mask[(mask >= classes) & (mask != IGNORE)]
        if unknown.size:
            raise CheckError(f"a mask holds class {unknown.max()}; classes are 0 to {classes - 1}, and {IGNORE}")
        return mask
    planes = mask.sum(axis=1, dtype=np.uint16)
    if mask.max(initial=0) > 1 or planes.max(initial=0) > 1:
        raise CheckError("a mask is not one-hot: a pixel has several classes, or values beyond 0 and 1")
    return np.where(planes == 1, mask.argmax(axis=1), IGNORE).astype(np.uint8)


def _compared(
    batch: Delivered, chosen: npt.NDArray[np.int64], job: Job
) -> tuple[npt.NDArray[np.int64], Pixels, Pixels]:
    """Check a batch's form; return the places in the reference, images and mask classes of what is compared."""
    planes = (job.classes,) if job.onehot else ()
    for name, tensor, shape in (("image", batch.image, (3,)), ("mask", batch.mask, planes)):
        expected = (len(batch.index), *shape, *job.size)
        found = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
        if found != (expected, "uint8"):
            raise CheckError(f"its {name} is {found[1]} {found[0]}, expected uint8 {expected}")
    rows = np.flatnonzero(np.isin(batch.index, chosen))
    image, mask = (tensor[rows].cpu().numpy() for tensor in (batch.image, batch.mask))
    return np.searchsorted(chosen, batch.index[rows]), image, mask_classes(mask, job.classes)
