"""The page cache: dropping files from it without root, and seeing how much of them is in it."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path


def drop(files: Iterable[Path]) -> None:
    """Ask the kernel to forget the cached pages of files that one may read.

    ``posix_fadvise(POSIX_FADV_DONTNEED)``, after ``fsync``, since unwritten pages stay. Pages that another process maps
    stay as well, and the disk's or the hypervisor's own cache is out of reach: :func:`resident` says what came of it.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def resident(files: Iterable[Path]) -> float | None:
    """Return which part of the files' pages is in the page cache, 0..1; None where the system does not tell."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "mincore"):
        return None
    libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
    cached = pages = 0
    for path in files:
        length = path.stat().st_size
        if length == 0:
            continue
        with path.open("rb") as handle, mmap.mmap(handle.fileno(), length, access=mmap.ACCESS_COPY) as mapped:
            view = ctypes.c_char.from_buffer(mapped)
            flags = ctypes.create_string_buffer(-(-length // mmap.PAGESIZE))
            failed = libc.mincore(ctypes.addressof(view), length, flags)
            del view  # the map cannot be closed while something points into it
            if failed:
                return None
        pages += len(flags)
        cached += sum(flag & 1 for flag in flags.raw[: len(flags)])
    return cached / pages if pages else None
