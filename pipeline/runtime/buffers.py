"""Memory for batches, used again once nobody holds it any more.

A fresh array costs a page fault for every 4 KiB that is written to it, which for small pictures is more than reading
them. A buffer goes back to its pool when the last tensor that shares its memory is gone, never earlier.
"""

from __future__ import annotations

import math
import threading
import weakref

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


class BufferPool:
    """Arrays of one shape.

    Args:
        shape: of each.
        spare: how many unused ones are kept, at most.
    """

    def __init__(self, shape: tuple[int, ...], *, spare: int) -> None:
        self._shape = shape
        self._spare = spare
        self._unused: list[Bytes] = []

    @property
    def bytes_each(self) -> int:
        """The size of an array in bytes."""
        return math.prod(self._shape)

    def take(self) -> Bytes:
        """Return an array with any content, uint8 of the pool's shape; it comes back by itself.

        It comes back when the array that is returned is gone. NumPy lets a view of it hold the memory beneath
        instead, so whoever keeps the memory must keep this very array; ``torch.from_numpy`` of it does.
        """
        try:
            base = self._unused.pop()  # not asked before: another thread may take the last one
        except IndexError:
            base = np.empty(self._shape, dtype=np.uint8)
        lent = base.view()
        weakref.finalize(lent, self._give_back, base).atexit = False
        return lent

    def _give_back(self, base: Bytes) -> None:
        if len(self._unused) < self._spare:
            self._unused.append(base)


class Scratch(threading.local):
    """Arrays that a thread uses again and again for what it throws away."""

    def __init__(self) -> None:
        self._arrays: dict[str, Bytes] = {}

    def take(self, name: str, shape: tuple[int, ...]) -> Bytes:
        """Return this thread's array of that name, contiguous, with any content; valid until the next call for it."""
        length = math.prod(shape)
        array = self._arrays.get(name)
        if array is None or len(array) < length:
            array = self._arrays[name] = np.empty(length, dtype=np.uint8)
        return array[:length].reshape(shape)
