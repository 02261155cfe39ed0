"""Memory that a thread reuses for intermediate results."""

import math
import threading

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


class Scratch(threading.local):
    """Named arrays of the calling thread."""

    def __init__(self) -> None:
        self._arrays: dict[str, Bytes] = {}

    def take(self, name: str, shape: tuple[int, ...]) -> Bytes:
        """Return this thread's array of that name, contiguous, uninitialised; valid until the next call for it."""
        length = math.prod(shape)
        array = self._arrays.get(name)
        if array is None or len(array) < length:
            array = self._arrays[name] = np.empty(length, dtype=np.uint8)
        return array[:length].reshape(shape)
