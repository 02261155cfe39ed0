"""Memory for batches that worker processes write into, reused once nothing refers to it any more.

It is a file without a name (``memfd_create``, Linux): nothing of it is left when the processes are gone, however they
ended, and the size of ``/dev/shm`` does not matter. It is divided into slots, each for the arrays of a batch.
"""

import errno
import math
import mmap
import os
import threading
import weakref
from functools import partial
from itertools import count

import numpy as np

from pipeline.io.scratch import Bytes
from pipeline.runtime.buffers import LentArray, Loan, lent
from shards.errors import PetsegError

Shapes = tuple[tuple[int, ...], ...]

FIRST_ARENA = 8  # slots; each further arena is twice as large, so that there are few: each takes a file descriptor


class SlotMap:
    """The arrays in each slot of a shared file, mapped when first requested.

    The file must be long enough; ``shapes`` are those of a slot's arrays, all uint8.
    """

    def __init__(self, descriptor: int, shapes: Shapes) -> None:
        self._descriptor = descriptor
        self._shapes = shapes
        page = mmap.ALLOCATIONGRANULARITY
        self.stride = max(1, -(-sum(map(math.prod, shapes)) // page)) * page  # bytes of a slot
        self._arenas: dict[int, mmap.mmap] = {}
        self._slots: dict[int, tuple[Bytes, ...]] = {}

    def arrays(self, slot: int) -> tuple[Bytes, ...]:
        """Return the arrays of a slot."""
        if slot in self._slots:
            return self._slots[slot]
        arena, start = self._arena(slot)
        arrays: list[Bytes] = []
        for shape in self._shapes:
            length = math.prod(shape)
            arrays.append(np.frombuffer(arena, dtype=np.uint8, count=length, offset=start).reshape(shape))
            start += length
        return self._slots.setdefault(slot, tuple(arrays))

    def forget(self, slot: int) -> None:
        """Return a slot's memory to the system: its arrays are zeros from now on."""
        arena, start = self._arena(slot)
        arena.madvise(mmap.MADV_REMOVE, start, self.stride)
        self._slots.pop(slot, None)

    def end(self, slot: int) -> int:
        """Return how long the file must be for a slot: up to the end of its arena."""
        first, slots = arena_of(slot)
        return (first + slots) * self.stride

    def _arena(self, slot: int) -> tuple[mmap.mmap, int]:
        first, slots = arena_of(slot)
        if first not in self._arenas:
            self._arenas[first] = mmap.mmap(self._descriptor, slots * self.stride, offset=first * self.stride)
        return self._arenas[first], (slot - first) * self.stride


def arena_of(slot: int) -> tuple[int, int]:
    """Return the first slot of the arena that a slot is in, and the arena's number of slots."""
    arena = (slot // FIRST_ARENA + 1).bit_length() - 1
    return FIRST_ARENA * (2**arena - 1), FIRST_ARENA * 2**arena


class SharedPool:
    """Lends slots, as :class:`pipeline.runtime.buffers.BufferPool` lends arrays.

    At most ``spare`` unused slots keep their memory. ``descriptor`` is the shared file's.
    """

    def __init__(self, shapes: Shapes, *, spare: int) -> None:
        self.descriptor = os.memfd_create("petseg-batches")
        self._closing = weakref.finalize(self, os.close, self.descriptor)
        self._closing.atexit = False
        self._map = SlotMap(self.descriptor, shapes)
        self._spare = spare
        self._unused: list[int] = []  # with memory
        self._empty: list[int] = []  # without
        self._numbers = count()
        self._growing = threading.Lock()
        self.bytes_each = self._map.stride

    def take(self) -> tuple[int, tuple[LentArray, ...]]:
        """Return a slot and its arrays, uninitialised; it returns to the pool when all of these very arrays are gone.

        Raises ``PetsegError`` if there is no memory for another slot.
        """
        slot = self._slot()
        loan = Loan(partial(self._give_back, slot))
        return slot, tuple(lent(array, loan) for array in self._map.arrays(slot))

    def _slot(self) -> int:
        try:
            return self._unused.pop()  # not checked before: another thread may take the last one
        except IndexError:
            pass
        try:
            slot = self._empty.pop()
        except IndexError:
            slot = next(self._numbers)
        try:
            with self._growing:  # one at a time: truncating a mapped file kills whoever touches it
                if os.fstat(self.descriptor).st_size < self._map.end(slot):
                    os.ftruncate(self.descriptor, self._map.end(slot))
                self._map.arrays(slot)
            os.posix_fallocate(self.descriptor, slot * self._map.stride, self._map.stride)
        except OSError as error:
            self._empty.append(slot)
            text = os.strerror(error.errno or errno.ENOMEM)
            raise PetsegError(f"no memory for another batch of {self._map.stride:,} bytes: {text}") from None
        return slot

    def _give_back(self, slot: int) -> None:
        """All arrays of a slot are gone. May run at any time, in any thread: must not wait for a lock."""
        if len(self._unused) < self._spare:
            self._unused.append(slot)
        else:
            self._map.forget(slot)
            self._empty.append(slot)
