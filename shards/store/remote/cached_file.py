"""One file of the cache: open and locked as long as it is used; how it is removed."""

import errno
import fcntl
import os
import threading
from pathlib import Path
from typing import Any, Final

import numpy as np

from shards.errors import PetsegError, option
from shards.store.byte_ranges import ByteRanges, write_at

_NO_LOCKS: Final = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_TAKEN: Final = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
# Never through a link, which may lead to a file that is not the cache's, and without waiting for the writer of a FIFO.
OWN: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class CachedFile(ByteRanges):
    """A file in the cache, locked against removal while it is open; ``present`` says which samples of a tar it has."""

    def __init__(self, path: Path, descriptor: int, *, size: int, samples: int = 0, complete: bool = True) -> None:
        super().__init__(path, descriptor=descriptor)
        self.path, self.complete, self._size, self._lock = path, complete, size, threading.Lock()
        self.present = np.ones(samples, dtype=np.uint8) if complete else np.zeros(samples, dtype=np.uint8)
        self.refresh()

    def __len__(self) -> int:
        return self._size

    def refresh(self) -> None:
        """Look again which samples are there: other processes add some."""
        if not self.complete:
            with self._lock:
                known = os.pread(self.descriptor, len(self.present), self._size)
                self.present[: len(known)] = np.frombuffer(known, dtype=np.uint8)
                self.present[len(known) :] = 0  # of a truncated file

    def add(self, place: int, start: int, data: Any) -> None:
        """Write a sample's bytes, which have been verified, then that they are there; ``OSError`` on a full disk."""
        write_at(self.descriptor, memoryview(data), start)
        self.mark(place, 1)

    def mark(self, place: int, value: int) -> None:
        """Record whether a sample is there."""
        try:
            os.pwrite(self.descriptor, bytes([value]), self._size + place)
        finally:  # where the cache may only be read, it counts for this object alone
            with self._lock:  # after a refresh that has read what was there before
                self.present[place] = value


def is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file has this path still; it may have been removed, and another one made there."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except (FileNotFoundError, NotADirectoryError):
        return False


def locked(descriptor: int, *, exclusive: bool) -> bool:
    """Lock an open file and return True, or False if another one has it; a file system may know no locks."""
    mode = fcntl.LOCK_EX | fcntl.LOCK_NB if exclusive else fcntl.LOCK_SH
    try:
        fcntl.flock(descriptor, mode)
    except OSError as error:
        return error.errno not in _TAKEN
    return True


def remove_unused(path: Path) -> bool:
    """Remove a file unless it is in use; return whether it is gone, by this process or by another one."""
    try:
        descriptor = os.open(path, os.O_RDONLY | OWN)
    except OSError as error:
        return error.errno == errno.ENOENT
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:  # else nobody's use can be seen: what is open stays readable all the same
            os.close(descriptor)
            return False
    try:
        if is_at(path, descriptor):  # else removed before it was locked, and perhaps made anew
            path.unlink(missing_ok=True)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def entries_in(folder: Path) -> list[Path]:
    """Return what is in a folder; nothing if it is none, is removed meanwhile, or may not be read."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def discard(path: Path) -> None:
    """Remove what has the name of a file of the cache, but is none, or damaged; ``PetsegError`` if that fails."""
    try:
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    except FileNotFoundError:  # by another process
        return
    except OSError as error:
        what = f"{path}, which has the name of a file of the cache, cannot be removed ({error.strerror})"
        raise PetsegError(f"{what}; remove it, or choose another folder with {option('cache')}") from None
