"""Many reads in one system call, with Linux's io_uring.

A read of a few kilobytes that are in the page cache takes a few microseconds, and each call of ``pread`` gives up the
interpreter's lock and takes it again: two threads that gather pictures that way spend as long waiting for one another
as reading. Here a thread hands the kernel a whole batch of reads and gives the lock up once. From a disk, they
are under way all at once, too.

Where io_uring cannot be had (another system, a kernel before 5.6, a container that forbids it: Docker's default
does), :func:`ring_of_thread` returns None, and whoever asked reads one piece after the other.

The layout of what the kernel shares is that of ``include/uapi/linux/io_uring.h``, described in io_uring(7),
io_uring_setup(2) and io_uring_enter(2).
"""

from __future__ import annotations

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

ENTRIES = 256  # reads a call; what does not fit takes further calls

# Numbers of system calls: the same on all processors for which there are wheels of torch.
_SETUP, _ENTER = 425, 426
_SUBMISSIONS_OFFSET = 0x10000000
_SINGLE_MAP = 1  # a feature: both rings in one mapping (kernel 5.4)
_WAIT_FOR_EVENTS = 1
_READ = 22  # an operation (kernel 5.6)
_WORD = 0xFFFFFFFF  # counters wrap around

_SUBMISSION = np.dtype(
    [
        ("operation", "u1"),
        ("flags", "u1"),
        ("priority", "<u2"),
        ("descriptor", "<i4"),
        ("offset", "<u8"),
        ("address", "<u8"),
        ("length", "<u4"),
        ("read_flags", "<u4"),
        ("number", "<u8"),
        ("rest", "<u8", 3),
    ]
)
_COMPLETION = np.dtype([("number", "<u8"), ("result", "<i4"), ("flags", "<u4")])

Result = npt.NDArray[np.int32]


class Ring:
    """One thread's ring. Nothing is being read any more when :meth:`read` returns or raises.

    Raises:
        OSError: the kernel does not give one.
    """

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
        rings = mmap.mmap(descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        places = mmap.mmap(
            descriptor,
            _SUBMISSION.itemsize * entries,
            mmap.MAP_SHARED,
            mmap.PROT_READ | mmap.PROT_WRITE,
            offset=_SUBMISSIONS_OFFSET,
        )

        def word(start: int) -> npt.NDArray[np.uint32]:
            return np.frombuffer(rings, dtype=np.uint32, count=1, offset=start)

        self._head, self._tail = word(head), word(tail)
        self._done_head, self._done_tail = word(done_head), word(done_tail)
        self._mask, self._done_mask = int(word(mask)[0]), int(word(done_mask)[0])
        self._array = np.frombuffer(rings, dtype=np.uint32, count=entries, offset=array)
        self._done = np.frombuffer(rings, dtype=_COMPLETION, count=completions, offset=done)
        self._places = np.frombuffer(places, dtype=_SUBMISSION)
        self._entries = entries
        self._numbers = np.arange(max(entries, completions), dtype=np.int64)
        self._places["operation"] = _READ
        self._places["number"] = self._numbers[:entries]

    @property
    def closed(self) -> bool:
        """Whether a call has failed: a closed ring is of no more use."""
        return not self._close.alive

    def read(
        self,
        descriptors: npt.NDArray[np.integer[Any]],
        offsets: npt.NDArray[np.integer[Any]],
        addresses: npt.NDArray[np.integer[Any]],
        lengths: npt.NDArray[np.integer[Any]],
    ) -> Result:
        """Read N pieces of files into memory.

        Args:
            descriptors: of the open files, (N,).
            offsets: of the pieces in their files in bytes, (N,).
            addresses: where each goes: memory that stays where it is, writable, (N,).
            lengths: in bytes, (N,).

        Returns:
            Bytes read, or a negative error number, int32 (N,); fewer bytes than asked for at the end of a file, and at
            times for no reason.

        Raises:
            OSError: the kernel refuses the call itself. Whatever is raised, nothing is being read then.
        """
        result = np.empty(len(descriptors), dtype=np.int32)
        for start in range(0, len(result), self._entries):
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
                # Waits for nothing if it cannot take all that is submitted: for the rest there is another turn.
                with contextlib.suppress(InterruptedError):
                    self._enter(count - self._since(self._head, first), count - finished)
        except BaseException:
            self._settle(first, done_first)
            raise
        done = self._done[(done_first + self._numbers[:count]) & self._done_mask]
        result[done["number"].astype(np.int64)] = done["result"]
        self._done_head[0] = (done_first + count) & _WORD

    def _settle(self, first: int, done_first: int) -> None:
        """Wait for what is under way, whatever happens, and close: its memory may be gone once the caller is told."""
        while under_way := self._since(self._head, first) - self._since(self._done_tail, done_first):
            try:
                self._enter(0, under_way)
            except BaseException:  # noqa: BLE001 - a second Ctrl-C, too, has to wait for it
                time.sleep(0.001)
        self._close()

    def _enter(self, submit: int, wait_for: int) -> int:
        return _call(_ENTER, self._descriptor, submit, wait_for, _WAIT_FOR_EVENTS, 0, 0)

    @staticmethod
    def _since(word: npt.NDArray[np.uint32], start: int) -> int:
        """Return how far a counter, which the kernel may be moving, is from where it was; it wraps around."""
        return (int(word[0]) - start) & _WORD


def ring_of_thread() -> Ring | None:
    """Return the calling thread's ring, made at the first call; None where there is none to be had."""
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
    """Whether io_uring works here; found by reading a few bytes with it. ``PETSEG_IO_URING=0`` says no."""
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
    """Call the kernel, without the interpreter's lock.

    Raises:
        OSError: it refuses.
    """
    result = int(_libc().syscall(number, *(ctypes.c_long(argument) for argument in arguments)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


@cache
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc


_local = threading.local()
