"""Many reads in one system call, with Linux's io_uring.

A read of a few kilobytes takes microseconds, and each ``pread`` releases and reacquires the global interpreter lock, so
that threads mostly wait for one another. Here a thread submits a whole batch of reads and releases the lock once.

Where io_uring is not available (another system, a kernel before 5.6, a container that forbids it, as Docker's default
does), :func:`thread_ring` returns None. The layout of what is shared with the kernel is that of
``include/uapi/linux/io_uring.h``, described in io_uring(7), io_uring_setup(2) and io_uring_enter(2).
"""

import contextlib
import ctypes
import errno
import mmap
import os
import sys
import threading
import time
import weakref
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.io.abandoned import check_wanted

ENTRIES = 256  # reads per call; more take further calls

# System call numbers: the same on all processors for which there are wheels of torch.
_SETUP, _ENTER = 425, 426
_SUBMISSIONS_OFFSET = 0x10000000
_SINGLE_MAP = 1  # a feature: both rings in one mapping (kernel 5.4)
_WAIT_FOR_EVENTS = 1
_READ = 22  # an operation (kernel 5.6)
_WORD = 0xFFFFFFFF  # counters wrap around

_SUBMISSION = np.dtype(
    {
        "names": ["operation", "descriptor", "offset", "address", "length", "number"],
        "formats": ["u1", "<i4", "<u8", "<u8", "<u4", "<u8"],
        "offsets": [0, 4, 8, 16, 24, 32],
        "itemsize": 64,
    }
)
_COMPLETION = np.dtype([("number", "<u8"), ("result", "<i4"), ("flags", "<u4")])

Integers = npt.NDArray[np.integer[Any]]
Result = npt.NDArray[np.int32]


class Ring:
    """One thread's ring; ``OSError`` where the kernel refuses. After :meth:`read` no read is in flight."""

    def __init__(self) -> None:
        parameters = np.zeros(30, dtype=np.uint32)
        descriptor = _call(_SETUP, ENTRIES, parameters.ctypes.data, 0, 0, 0, 0)
        self._close = weakref.finalize(self, os.close, descriptor)
        self._close.atexit = False
        self._descriptor = descriptor
        entries, completions, features = (int(parameters[place]) for place in (0, 1, 5))
        # Where in the mapping each part begins, for submissions and completions.
        head, tail, mask, array = (int(parameters[10 + place]) for place in (0, 1, 2, 6))
        done_head, done_tail, done_mask, done = (int(parameters[20 + place]) for place in (0, 1, 2, 5))
        if not features & _SINGLE_MAP:
            raise OSError(errno.ENOSYS, "the kernel's io_uring is too old")
        size = max(array + 4 * entries, done + _COMPLETION.itemsize * completions)
        rings, submissions = mmap.mmap(descriptor, size), _SUBMISSION.itemsize * entries

        def word(start: int) -> npt.NDArray[np.uint32]:
            return np.frombuffer(rings, dtype=np.uint32, count=1, offset=start)

        self._head, self._tail = word(head), word(tail)
        self._done_head, self._done_tail = word(done_head), word(done_tail)
        self._mask, self._done_mask = int(word(mask)[0]), int(word(done_mask)[0])
        self._array = np.frombuffer(rings, dtype=np.uint32, count=entries, offset=array)
        self._done = np.frombuffer(rings, dtype=_COMPLETION, count=completions, offset=done)
        self._places = np.frombuffer(mmap.mmap(descriptor, submissions, offset=_SUBMISSIONS_OFFSET), dtype=_SUBMISSION)
        self._entries = entries
        self._numbers = np.arange(max(entries, completions), dtype=np.int64)
        self._places["operation"] = _READ
        self._places["number"] = self._numbers[:entries]

    @property
    def closed(self) -> bool:
        """Whether a call has failed: a closed ring cannot be used any more."""
        return not self._close.alive

    def read(self, descriptors: Integers, offsets: Integers, addresses: Integers, lengths: Integers) -> Result:
        """Read N pieces of open files into memory, writable and not moved; lengths and offsets are in bytes, all (N,).

        Returns the bytes read, or a negative error number, int32 (N,); a read may be short, as ``pread`` may.
        """
        result = np.empty(len(descriptors), dtype=np.int32)
        for start in range(0, len(result), self._entries):
            check_wanted()
            part = slice(start, start + self._entries)
            count = len(result[part])
            places = self._places[:count]
            places["descriptor"] = descriptors[part]
            places["offset"] = offsets[part]
            places["address"] = addresses[part]
            places["length"] = lengths[part]
            self._run(count, result[part])
        return result

    def _run(self, count: int, result: Result) -> None:
        """Submit the first ``count`` places and wait for all of them."""
        first, done_first = int(self._tail[0]), int(self._done_head[0])
        self._array[(first + self._numbers[:count]) & self._mask] = self._numbers[:count]
        self._tail[0] = (first + count) & _WORD
        try:
            while (finished := self._since(self._done_tail, done_first)) < count:
                # Waits for nothing if it cannot take all that is submitted: the rest is submitted by the next call.
                with contextlib.suppress(InterruptedError):
                    self._enter(count - self._since(self._head, first), count - finished)
        except BaseException:
            self._settle(first, done_first)
            raise
        done = self._done[(done_first + self._numbers[:count]) & self._done_mask]
        result[done["number"].astype(np.int64)] = done["result"]
        self._done_head[0] = (done_first + count) & _WORD

    def _settle(self, first: int, done_first: int) -> None:
        """Wait for what is in flight, whatever happens, and close: the caller may free the memory afterwards."""
        while in_flight := self._since(self._head, first) - self._since(self._done_tail, done_first):
            try:
                self._enter(0, in_flight)
            except BaseException:  # noqa: BLE001 - a second Ctrl-C, too, has to wait for it
                time.sleep(0.001)
        self._close()

    def _enter(self, submit: int, wait_for: int) -> int:
        return _call(_ENTER, self._descriptor, submit, wait_for, _WAIT_FOR_EVENTS, 0, 0)

    @staticmethod
    def _since(word: npt.NDArray[np.uint32], start: int) -> int:
        """Return how far a counter, which the kernel may be moving, is from where it was; it wraps around."""
        return (int(word[0]) - start) & _WORD


def thread_ring() -> Ring | None:
    """Return the calling thread's ring, created by the first call; None where io_uring is not available."""
    if not is_available():
        return None
    ring: Ring | None = getattr(_local, "ring", None)
    # A fork shares its parent's rings, and must not use them.
    if ring is None or ring.closed or _local.process != os.getpid():
        try:
            ring = _local.ring = Ring()
        except OSError:
            return None
        _local.process = os.getpid()
    return ring


@cache
def is_available() -> bool:
    """Whether io_uring works here, found by reading a few bytes with it. ``PETSEG_IO_URING=0`` disables it."""
    if not sys.platform.startswith("linux") or os.environ.get("PETSEG_IO_URING") == "0":
        return False
    with contextlib.suppress(OSError, ValueError), Path(__file__).open("rb") as file:
        expected = os.pread(file.fileno(), 16, 0)
        into = np.zeros(16, dtype=np.uint8)
        one = np.ones(1, dtype=np.int64)
        got = Ring().read(one * file.fileno(), one * 0, one * into.ctypes.data, one * 16)
        return int(got[0]) == 16 and into.tobytes() == expected
    return False


def _call(number: int, *arguments: int) -> int:
    """Make a system call, without the interpreter lock; ``OSError`` if it fails."""
    result = int(_libc.syscall(number, *(ctypes.c_long(argument) for argument in arguments)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_local = threading.local()
