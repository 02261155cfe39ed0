"""Before a loader is timed: does it deliver every sample once, and the same pixels as petseg's?"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.peers.base import Delivered
from bench.results.records import OutputCheck
from shards.errors import PetsegError

MAX_COMPARED = 512  # samples whose pixels are compared; all are counted
IMAGE_SAME = 1.5  # mean absolute difference in levels of 0..255; PIL and DALI with the same filter differ by about 0.3
IMAGE_LIKE = 12.0  # the most for a loader that declares another filter, scaling or compression


class CheckError(PetsegError):
    """A benchmark subject failed, or did not deliver what it should; it is not timed."""


@dataclass(frozen=True)
class Reference:
    """What some samples should look like."""

    index: npt.NDArray[np.int64]  # (M,): which samples of the split
    image: npt.NDArray[np.uint8]  # (M, 3, S, S)
    mask: npt.NDArray[np.uint8]  # (M, 3, S, S), one-hot, or (M, S, S), classes 0, 1, 2: the form that is requested


def collect_reference(batches: Iterable[Delivered], samples: int, seed: int) -> Reference:
    """Keep a random part of an epoch, at most :data:`MAX_COMPARED` samples.

    Raises:
        CheckError: there is no batch.
    """
    chosen = np.sort(np.random.default_rng(seed).permutation(samples)[:MAX_COMPARED])
    slot = _slots(chosen, samples)
    kept: list[npt.NDArray[np.uint8]] = []
    for batch in batches:
        tensors = batch.image, batch.mask
        if not kept:
            kept = [np.empty((len(chosen), *tensor.shape[1:]), np.uint8) for tensor in tensors]
        rows = np.flatnonzero((batch.index >= 0) & (slot[batch.index] >= 0))
        for array, tensor in zip(kept, tensors, strict=True):
            array[slot[batch.index[rows]]] = tensor[rows].cpu().numpy()
    if not kept:
        raise CheckError("the loader delivered nothing")
    return Reference(chosen, *kept)


def check_epoch(batches: Iterable[Delivered], samples: int, size: int, reference: Reference) -> OutputCheck:
    """Run through one epoch; count every sample and compare those that the reference holds.

    Raises:
        CheckError: a tensor has another shape or type, a mask is not one-hot, or an index is not one of the split.
    """
    slot = _slots(reference.index, samples)
    seen = np.zeros(samples, dtype=np.int64)
    differences: list[float] = []
    wrong = pixels = 0
    for batch in batches:
        _check_form(batch, size, onehot=reference.mask.ndim == 4)
        index = batch.index[batch.index >= 0]
        if index.max(initial=0) >= samples:
            raise CheckError(f"delivered sample {index.max()} of a split of {samples}")
        np.add.at(seen, index, 1)
        rows = np.flatnonzero((batch.index >= 0) & (slot[batch.index] >= 0))
        places = slot[batch.index[rows]]
        gap = np.abs(batch.image[rows].cpu().numpy().astype(np.int16) - reference.image[places])
        differences += gap.mean(axis=(1, 2, 3), dtype=np.float64).tolist()
        wrong += int((_classes(batch.mask[rows].cpu().numpy()) != _classes(reference.mask[places])).sum())
        pixels += len(rows) * size * size
    return OutputCheck(
        delivered=int(seen.sum()), missing=int((seen == 0).sum()), repeated=int(np.maximum(seen - 1, 0).sum()),
        compared=len(differences), image_difference=float(np.mean(differences)) if differences else 0.0,
        image_worst=max(differences, default=0.0), mask_difference=wrong / pixels if pixels else 0.0,
    )  # fmt: skip


def judge(check: OutputCheck, *, image_differs: bool) -> None:
    """Refuse a loader whose epoch is not complete or whose masks differ; images may differ where that is declared.

    Raises:
        CheckError: with the reason.
    """
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


def _slots(chosen: npt.NDArray[np.int64], samples: int) -> npt.NDArray[np.int64]:
    slot = np.full(samples, -1)
    slot[chosen] = np.arange(len(chosen))
    return slot


def _check_form(batch: Delivered, size: int, *, onehot: bool) -> None:
    image = (len(batch.index), 3, size, size)
    mask = image if onehot else (len(batch.index), size, size)
    for name, tensor, shape in (("image", batch.image, image), ("mask", batch.mask, mask)):
        found = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
        if found != (shape, "uint8"):
            raise CheckError(f"its {name} is {found[1]} {found[0]}, expected uint8 {shape}")


def _classes(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.integer[Any]]:
    """Return masks of either form as classes (B, S, S); refuse a pixel that has no class, or several."""
    if mask.ndim == 3:
        if mask.max(initial=0) > 2:
            raise CheckError(f"a mask holds class {mask.max()}; classes are 0, 1 and 2")
        return mask
    if not ((mask <= 1).all() and (mask.sum(axis=1) == 1).all()):
        raise CheckError("a mask is not one-hot: its channels do not sum to 1 at every pixel")
    classes: npt.NDArray[np.integer[Any]] = mask.argmax(axis=1)
    return classes
