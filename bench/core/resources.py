"""What processes use: processor time and memory of a process tree, and the page cache."""

import ctypes
import mmap
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil


def cpu_seconds(pid: int) -> float:
    """Return user + system time of a process, of its living descendants, and of those that it has waited for."""
    total = 0.0
    for process in _tree(pid):
        with suppress(psutil.Error):  # it has just ended; its parent has waited for it and carries its time
            total += sum(process.cpu_times()[:4])  # user, system, and those of children
    return total


def memory_bytes(pid: int) -> int:
    """Return the memory of the tree: the proportional set size (pages shared by n count 1/n), or where the system
    does not report it, the resident set size, which counts shared pages once for each process.
    """
    total = 0
    for process in _tree(pid):
        with suppress(psutil.Error):
            full = process.memory_full_info()
            total += getattr(full, "pss", 0) or full.rss
    return total


@contextmanager
def watch_memory(pid: int, *, every: float = 0.25) -> Iterator[list[int]]:
    """Read the tree's memory every so many seconds, from a thread, until the block ends; yield the list of readings.

    Each reading stops each of the processes for milliseconds, so that what is timed should not be watched.
    """
    readings, stop = [memory_bytes(pid)], threading.Event()

    def look() -> None:
        while not stop.wait(every):
            readings.append(memory_bytes(pid))

    thread = threading.Thread(target=look, name="petseg-bench-memory", daemon=True)
    thread.start()
    try:
        yield readings
    finally:
        stop.set()
        thread.join()


def drop_from_page_cache(files: Iterable[Path]) -> None:
    """Ask the kernel to forget the cached pages of files that one may read.

    ``posix_fadvise(POSIX_FADV_DONTNEED)``, after ``fsync``, since unwritten pages stay. Pages that another process maps
    stay as well, and the disk's or the hypervisor's own cache is out of reach: see :func:`resident_share`.
    """
    for path in files if hasattr(os, "posix_fadvise") else ():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident_share(files: Iterable[Path]) -> float | None:
    """Return which part of the files' pages is in the page cache, 0..1; None where the system does not say."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "mincore"):
        return None
    libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
    cached = pages = 0
    for path in (path for path in files if path.stat().st_size):
        with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
            view = ctypes.c_char.from_buffer(mapped)
            flags = ctypes.create_string_buffer(-(-len(mapped) // mmap.PAGESIZE))
            failed = libc.mincore(ctypes.addressof(view), len(mapped), flags)
            del view  # the map cannot be closed while something points into it
            if failed:
                return None
        pages += len(flags)
        cached += sum(flag & 1 for flag in flags.raw)
    return cached / pages if pages else None


def _tree(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    return []
