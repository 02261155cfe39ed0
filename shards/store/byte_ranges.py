"""Regular files, read whole or by byte ranges, never through a memory map.

When a file shrinks or a disk fails underneath, a read returns fewer bytes or raises ``OSError``, where touching a
mapped page would kill the process (SIGBUS). Only regular files are opened: a FIFO would wait for a writer for ever.
"""

import errno
import os
import resource
import stat
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from shards.errors import PetsegError

MOST_READ: Final = 1 << 30  # bytes of a file that is read whole; tars and large tables are read by ranges
MOST_GAP: Final = 1 << 16  # bytes between two pieces of a file that are read along rather than skipped
SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
_NONBLOCK = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


def open_regular(path: Path) -> int:
    """Open a regular file for reading and return its descriptor; raise ``OSError`` for anything else."""
    descriptor = os.open(path, os.O_RDONLY | _NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "not a regular file", str(path))


def share_of_files(most: int) -> int:
    """Return how many files one user may keep open: ``most``, or a quarter of what the process may open (ulimit -n)."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return most if limit == resource.RLIM_INFINITY else max(1, min(most, limit // 4))


def check_shortage(error: OSError) -> None:
    """Raise ``PetsegError`` if a read failed for lack of descriptors or memory: no file is damaged then."""
    if error.errno in SHORTAGES:
        raise PetsegError(
            f"{error.filename or 'a file'} cannot be read: {error.strerror}; nothing is damaged: raise the limit of "
            "open files (ulimit -n), or use fewer processes"
        ) from None


def read_regular(path: Path, *, most: int = MOST_READ) -> bytes:
    """Return the content of a regular file; raise ``OSError`` for anything else, and for more than ``most`` bytes."""
    with ByteRanges(path) as file:
        return file.whole(most=most)


def write_at(descriptor: int, data: memoryview, start: int) -> None:
    """Write all of some bytes into an open file, from ``start`` on."""
    while data:
        count = os.pwrite(descriptor, data, start)
        data, start = data[count:], start + count


class ByteRanges:
    """An open regular file; ``ranges[start:stop]`` are bytes of it, ``len(ranges)`` its size when it was opened.

    Thread-safe. The file is closed when nothing refers to the object any more, so that a thread that is still reading
    keeps it open, or at the end of a ``with`` block. A ``descriptor`` that is open already becomes the object's own.
    """

    def __init__(self, path: Path, *, descriptor: int | None = None) -> None:
        self.descriptor = open_regular(path) if descriptor is None else descriptor
        self._close = weakref.finalize(self, os.close, self.descriptor)
        self._close.atexit = False
        self.status = os.fstat(self.descriptor)

    def __len__(self) -> int:
        return self.status.st_size

    def __getitem__(self, place: slice) -> bytes:
        """Return the bytes of a slice, fewer if the file has become shorter; raise ``OSError`` if it cannot be read."""
        start, stop, _ = place.indices(len(self))
        return self.read(start, stop - start)

    def read(self, start: int, length: int) -> bytes:
        """Return ``length`` bytes from ``start`` on, fewer at the end of the file; raise ``OSError`` on failure."""
        parts = []
        while length > 0 and (part := os.pread(self.descriptor, length, start)):  # Linux reads at most 2 GiB at a time
            parts.append(part)
            start, length = start + len(part), length - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def whole(self, *, most: int = MOST_READ) -> bytes:
        """Return the content; raise ``OSError`` for more than ``most`` bytes, before memory is asked for."""
        size = len(self)
        if size > most:
            raise OSError(errno.EINVAL, f"it has {size} bytes, more than the {most} that such a file may have")
        return self.read(0, size)

    def close(self) -> None:
        """Close the file; nothing can be read afterwards."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class OpenFiles:
    """The most recently used of some open files, by number, ``most`` at most. Thread-safe."""

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, threading.Lock()
        self._files: OrderedDict[int, ByteRanges] = OrderedDict()

    def get(self, number: int) -> ByteRanges | None:
        """Return a file, now the most recently used one; None if it is not among those that are open."""
        with self._lock:
            file = self._files.get(number)
            if file is not None:
                self._files.move_to_end(number)
            return file

    def keep(self, number: int, file: ByteRanges) -> None:
        """Add a file as the most recently used one, and let go of those beyond the limit."""
        with self._lock:
            self._files[number] = file
            while len(self._files) > self._most:
                self._files.popitem(last=False)  # closed when no other thread reads it

    def numbers(self) -> list[int]:
        """Return the numbers of the files that are open."""
        with self._lock:
            return list(self._files)

    def drop(self, numbers: Iterable[int]) -> None:
        """Let go of some files, if they are open."""
        with self._lock:
            for number in numbers:
                self._files.pop(number, None)
