"""Before a loader is timed: does it deliver every sample once, and the same pixels as ours?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bench.peers.base import Delivered
from bench.results import Check
from shards.errors import PetsegError

if TYPE_CHECKING:
    import torch

MAX_COMPARED = 512  # samples whose pixels are compared; all are counted
IMAGE_SAME = 1.5  # mean absolute difference in levels of 0..255; PIL and DALI with the same filter differ by about 0.3
IMAGE_LIKE = 12.0  # the most for a loader that declares another filter, scaling or compression
MASK_LIKE = 0.02  # share of pixels, for a loader that declares that its masks differ


class CheckError(PetsegError):
    """A loader did not deliver what it should; it is not timed."""


@dataclass(frozen=True)
class Reference:
    """What some samples should look like.

    Attributes:
        index: which samples of the split, int64 (M,).
        image: uint8 (M, 3, S, S).
        mask: uint8 (M, 3, S, S), one-hot, or (M, S, S), classes 0, 1, 2: the form that is asked for.
    """

    index: npt.NDArray[np.int64]
    image: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.uint8]

    def save(self, folder: Path) -> None:
        """Write it as three ``.npy`` files."""
        folder.mkdir(parents=True)
        for name in ("index", "image", "mask"):
            np.save(folder / f"{name}.npy", getattr(self, name))

    @classmethod
    def load(cls, folder: Path) -> Reference:
        """Read it, memory-mapped."""
        loaded = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("index", "image", "mask"))
        index, image, mask = loaded
        return cls(index=index, image=image, mask=mask)


def collect_reference(batches: Iterable[Delivered], samples: int, seed: int) -> Reference:
    """Keep a random part of an epoch, at most :data:`MAX_COMPARED` samples."""
    chosen = np.sort(np.random.default_rng(seed).permutation(samples)[:MAX_COMPARED])
    slot = np.full(samples, -1)
    slot[chosen] = np.arange(len(chosen))
    image = mask = None
    for batch in batches:
        if image is None or mask is None:
            image = np.empty((len(chosen), *batch.image.shape[1:]), np.uint8)
            mask = np.empty((len(chosen), *batch.mask.shape[1:]), np.uint8)
        for row, index in enumerate(batch.index.tolist()):
            if index >= 0 and slot[index] >= 0:
                image[slot[index]] = batch.image[row].cpu().numpy()
                mask[slot[index]] = batch.mask[row].cpu().numpy()
    if image is None or mask is None:
        raise CheckError("the loader delivered nothing")
    return Reference(index=chosen, image=image, mask=mask)


def check_epoch(batches: Iterable[Delivered], samples: int, size: int, reference: Reference) -> Check:
    """Run through one epoch; count every sample and compare those that the reference holds.

    Raises:
        CheckError: a tensor has another shape or type, a mask is not one-hot, or an index is not one of the split.
    """
    slot = np.full(samples, -1)
    slot[reference.index] = np.arange(len(reference.index))
    seen = np.zeros(samples, dtype=np.int64)
    differences: list[float] = []
    wrong = pixels = 0
    for batch in batches:
        _check_form(batch, size, onehot=reference.mask.ndim == 4)
        index = batch.index[batch.index >= 0]
        if len(index) and index.max() >= samples:
            raise CheckError(f"delivered sample {index.max()} of a split of {samples}")
        np.add.at(seen, index, 1)
        rows = np.flatnonzero(batch.index >= 0)
        rows = rows[slot[batch.index[rows]] >= 0]
        if not len(rows):
            continue
        places = slot[batch.index[rows]]
        image, mask = batch.image[rows].cpu().numpy(), batch.mask[rows].cpu().numpy()
        classes = _classes(mask)
        gap = np.abs(image.astype(np.int16) - reference.image[places])
        differences += gap.mean(axis=(1, 2, 3), dtype=np.float64).tolist()
        wrong += int((classes != _classes(reference.mask[places])).sum())
        pixels += len(rows) * size * size
    return Check(
        delivered=int(seen.sum()),
        missing=int((seen == 0).sum()),
        repeated=int(np.maximum(seen - 1, 0).sum()),
        compared=len(differences),
        image_difference=float(np.mean(differences)) if differences else 0.0,
        image_worst=max(differences, default=0.0),
        mask_difference=wrong / pixels if pixels else 0.0,
    )


def judge(check: Check, *, image_differs: bool, mask_differs: bool) -> None:
    """Refuse a loader whose epoch is not whole, or whose pixels differ in a way that it does not declare.

    Args:
        check: what was found.
        image_differs: the loader declares that its pictures are made otherwise.
        mask_differs: likewise its masks.

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
            f"its pictures differ from ours by {check.image_difference:.2f} levels on average, at most {most} are "
            f"allowed{'' if image_differs else ' for a loader that declares no difference'}"
        )
    allowed = MASK_LIKE if mask_differs else 0.0
    if check.mask_difference > allowed:
        raise CheckError(
            f"{check.mask_difference:.3%} of its mask pixels have another class than ours, at most {allowed:.1%} may"
        )


def _check_form(batch: Delivered, size: int, *, onehot: bool) -> None:
    image = (len(batch.index), 3, size, size)
    mask = image if onehot else (len(batch.index), size, size)
    for name, tensor, shape in (("image", batch.image, image), ("mask", batch.mask, mask)):
        found = tuple(tensor.shape), _dtype(tensor)
        if found != (shape, "uint8"):
            raise CheckError(f"its {name} is {found[1]} {found[0]}, expected uint8 {shape}")


def _classes(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.integer[Any]]:
    """Return masks of either form as classes (B, S, S).

    Raises:
        CheckError: a pixel has no class, or several.
    """
    if mask.ndim == 3:
        if mask.max(initial=0) > 2:
            raise CheckError(f"a mask holds class {mask.max()}; classes are 0, 1 and 2")
        return mask
    if not ((mask <= 1).all() and (mask.sum(axis=1) == 1).all()):
        raise CheckError("a mask is not one-hot: its channels do not sum to 1 at every pixel")
    classes: npt.NDArray[np.integer[Any]] = mask.argmax(axis=1)
    return classes


def _dtype(tensor: torch.Tensor | Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")
