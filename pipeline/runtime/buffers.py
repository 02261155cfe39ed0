"""Memory for batches, reused once nothing refers to it any more.

A new array costs a page fault for every 4 KiB that is written to it, which for small images is more than reading them.
A buffer returns to its pool when the last tensor that shares its memory is gone, never earlier.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from pipeline.io.scratch import Bytes

Allocate = Callable[[tuple[int, ...]], Bytes]


class Loan:
    """Calls a function when nothing refers to it any more, in whichever thread that happens: it must not wait."""

    __slots__ = ("_end",)

    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end

    def __del__(self) -> None:
        self._end()


class LentArray(np.ndarray[Any, np.dtype[np.uint8]]):  # NumPy's NDArray is no class since 2.5
    """An array that holds a loan. NumPy lets an ordinary view of it refer to the memory underneath instead, so whoever
    keeps the memory must keep this very array; ``torch.from_numpy`` of it does.
    """

    loan: Loan


def lent(array: Bytes, loan: Loan) -> LentArray:
    """Return an array of the same memory that holds a loan."""
    view = array.view(LentArray)
    view.loan = loan
    return view


def ordinary_memory(shape: tuple[int, ...]) -> Bytes:
    """Return an uninitialised array, uint8."""
    return np.empty(shape, dtype=np.uint8)


class BufferPool:
    """Arrays of one shape, of which at most ``spare`` unused ones are kept; new ones come from ``allocate``."""

    def __init__(self, shape: tuple[int, ...], *, spare: int, allocate: Allocate = ordinary_memory) -> None:
        self._allocate = allocate
        self.bytes_each = math.prod(shape)
        self._shape = shape
        self._spare = spare
        self._unused: list[Bytes] = []

    def take(self) -> LentArray:
        """Return an uninitialised array, uint8 of the pool's shape; it returns to the pool when it is gone."""
        try:
            base = self._unused.pop()  # not checked before: another thread may take the last one
        except IndexError:
            base = self._allocate(self._shape)
        return lent(base, Loan(partial(self._give_back, base)))

    def _give_back(self, base: Bytes) -> None:
        if len(self._unused) < self._spare:
            self._unused.append(base)
