"""A folder of files that were fetched, by SHA-256, shared by the processes of a machine and bounded in size.

``ab/SHA256`` is a complete file whose content has been compared with its name. ``ab/SHA256.ranges`` is a tar of which
some samples are there: a file with holes, then one byte per sample, set when its bytes are written.
``ab/SHA256.fetch`` is being fetched, by the process that has it locked.

Whoever uses a file holds a shared lock on it (flock), which ends with the process. What no one uses may be removed, the
least recently used first, to stay within the bound; files of other names are never touched. So a killed process leaves
a file that is complete, or knows what is missing, or is removed later.
"""

import contextlib
import errno
import fcntl
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from shards.errors import CacheTooSmallError, PetsegError, option
from shards.store.byte_ranges import check_shortage
from shards.store.remote.cached_file import OWN, CachedFile, discard, entries_in, is_at, locked, remove_unused

_NAME = re.compile(r"[0-9a-f]{64}(\.ranges|\.fetch)?")
FULL: Final = (errno.ENOSPC, errno.EDQUOT)
LEAST_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class ContentCache:
    """See the module. Pickles as folder and bound. Thread-safe."""

    folder: Path
    most_bytes: int
    _state: dict[str, int] = field(default_factory=dict, compare=False, repr=False)
    _lock: Any = field(default_factory=threading.Lock, compare=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return ContentCache, (self.folder, self.most_bytes)

    def path(self, sha256: str, kind: str = "") -> Path:
        """Return the path of a file by its SHA-256; ``kind``: "" for a complete one, ``.ranges`` or ``.fetch``."""
        return self.folder / sha256[:2] / f"{sha256}{kind}"

    def open(self, sha256: str, *, size: int, samples: int = 0) -> CachedFile | None:
        """Return a complete file, locked; None if there is none. One of a wrong size is removed."""
        path = self.path(sha256)
        descriptor = self._open(path, os.O_RDONLY)
        if descriptor is None:
            return None
        if os.fstat(descriptor).st_size != size:
            os.close(descriptor)
            discard(path)
            return None
        return CachedFile(path, descriptor, size=size, samples=samples)

    def open_ranges(self, sha256: str, *, size: int, samples: int, create: bool) -> CachedFile | None:
        """Return a tar with some of its samples, locked; None if there is none and it is not to be created."""
        path = self.path(sha256, ".ranges")
        for _ in range(3):
            descriptor = self._open(path, os.O_RDWR | (os.O_CREAT if create else 0))
            if descriptor is None:
                return None
            try:
                if create and os.fstat(descriptor).st_size == 0:
                    os.ftruncate(descriptor, size + samples)
            except OSError as error:  # no disk has so large a file, even one of holes
                os.close(descriptor)
                raise self.failure(error) from None
            found = os.fstat(descriptor).st_size
            if found == size + samples:
                return CachedFile(path, descriptor, size=size, samples=samples, complete=False)
            os.close(descriptor)
            if not found:  # another process has just begun it
                return None
            discard(path)  # of something else, or damaged
        return None

    @contextlib.contextmanager
    def fetching(self, sha256: str) -> Iterator[int | None]:
        """Provide the descriptor of an empty file to fetch into, for one process at a time; None while another has it.

        :meth:`publish` makes it the complete file; otherwise it is removed.
        """
        path = self.path(sha256, ".fetch")
        descriptor = self._open(path, os.O_RDWR | os.O_CREAT, exclusive=True)
        if descriptor is None:
            yield None
            return
        try:
            os.ftruncate(descriptor, 0)
            yield descriptor
        finally:
            if is_at(path, descriptor):  # not published, nor another process's by now
                path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # a fork may have the descriptor, too, and would keep the lock
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def fetched(self, sha256: str) -> tuple[int, int, int] | None:
        """Return what changes while some process fetches a file; None if none does."""
        with contextlib.suppress(OSError):
            status = self.path(sha256, ".fetch").stat()
            return status.st_ino, status.st_blocks, status.st_mtime_ns
        return None

    def publish(self, sha256: str, descriptor: int) -> bool:
        """Make the file that was fetched the complete one; its samples alone are not needed any more.

        Return False if it was removed meanwhile; another process may be fetching into a new one of its name.
        """
        path, fetched = self.path(sha256), self.path(sha256, ".fetch")
        if path.is_dir():
            discard(path)
        try:
            if not is_at(fetched, descriptor):
                return False
            fetched.replace(path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self.failure(error) from None
        discard(self.path(sha256, ".ranges"))
        return True

    def forget(self, sha256: str) -> None:
        """Remove a file, complete or not, because it has been damaged on the disk."""
        for kind in ("", ".ranges"):
            discard(self.path(sha256, kind))

    def has_room(self, needed: int) -> bool:
        """Whether ``needed`` bytes more fit for certain, which counts them as added; looks at no file."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            added, known = self._state.get("added", 0), self._state.get("used", self.most_bytes)
            fits = added < max(LEAST_BYTES, self.most_bytes >> 6) and known + added + needed <= self.most_bytes
            if fits:
                self._state["added"] = added + needed
            return fits
        finally:
            self._lock.release()

    def make_room(self, needed: int, *, release: Callable[[], None], into: int | None = None) -> None:
        """Remove what nobody uses until ``needed`` bytes more fit; ``release`` closes what the caller could do without.

        Sizes are added up anew when the bound may be reached, since other processes add files too. ``into``, the
        descriptor of the file that they are fetched into, gives it its size at once, so that it counts from now on.
        Raises ``PetsegError`` if everything that is left is in use.
        """
        with self._lock:
            added = self._state.get("added", 0)
            known = self._state.get("used", self.most_bytes)
            current = added < max(LEAST_BYTES, self.most_bytes >> 6)
            if current and known + added + needed <= self.most_bytes:
                self._state["added"] = added + needed
            else:
                used = self._remove_until(self.most_bytes - needed, release)
                self._state.update(used=used, added=needed)
                if used + needed > self.most_bytes:
                    raise CacheTooSmallError(
                        f"the cache {self.folder} is too small: {needed} bytes are needed, and {used} of at most "
                        f"{self.most_bytes} are in use; give more with {option('cache_bytes')}"
                    )
            if into is not None:
                try:
                    os.ftruncate(into, needed)
                except OSError as error:
                    raise self.failure(error) from None

    def shrink(self, by: int, *, release: Callable[[], None]) -> None:
        """Remove so many bytes of what nobody uses, on a disk that is full before the bound is reached."""
        with self._lock:
            self._state.update(used=self._remove_until(max(0, self.used_bytes() - by), release), added=0)

    def used_bytes(self) -> int:
        """Return the space that the cache's files take on the disk."""
        return sum(_space(*entry) for entry in self._entries())

    def _remove_until(self, most: int, release: Callable[[], None]) -> int:
        """Remove unused files, the least recently used first, until they take at most so many bytes; return how many.

        Files that are being fetched count, and are removed only where their process has ended.
        """
        entries = sorted(self._entries(), key=lambda entry: entry[1].st_atime_ns)
        used = sum(_space(*entry) for entry in entries)
        if used > most:
            release()
        for path, status in entries:
            if used <= most:
                break
            if remove_unused(path) and not _is_published(path, status):
                used -= _space(path, status)
        return used

    def _entries(self) -> Iterator[tuple[Path, os.stat_result]]:
        """List the cache's files; one that is published meanwhile is listed by its new name."""
        for folder in entries_in(self.folder):
            own = len(folder.name) == 2 and not folder.is_symlink()
            paths = set(entries_in(folder)) if own else set()
            for path in paths:
                if _NAME.fullmatch(path.name) and path.name.startswith(folder.name):
                    complete = path.with_suffix("")
                    may_be_renamed = path.suffix == ".fetch" and complete not in paths
                    for name in (path, complete) if may_be_renamed else (path,):
                        with contextlib.suppress(OSError):
                            yield name, name.lstat()
                            break

    def _open(self, path: Path, flags: int, *, exclusive: bool = False) -> int | None:
        """Open and lock a file; None if there is none, or if another process has the exclusive lock."""
        missing: OSError | None = None
        for _ in range(100):
            try:
                if path.parent.is_symlink():  # which may lead to files that are not the cache's
                    discard(path.parent)
                if flags & os.O_CREAT:
                    path.parent.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(path, flags | OWN, 0o644)
            except (FileNotFoundError, FileExistsError) as error:
                if not flags & os.O_CREAT:
                    return None
                missing = error  # the folder was removed again: before the file was made, or while mkdir looked at it
                continue
            except OSError as error:
                check_shortage(error)
                if flags == os.O_RDWR and error.errno in (errno.EROFS, errno.EACCES):
                    flags = os.O_RDONLY  # what is there can be used
                    continue
                if path.is_symlink() or path.is_fifo() or path.is_dir():
                    discard(path)
                    continue
                raise self.failure(error) from None
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or (flags & os.O_RDWR and status.st_nlink > 1):
                os.close(descriptor)  # a file of another name, too, would be written to
                discard(path)
                continue
            if not locked(descriptor, exclusive=exclusive):
                os.close(descriptor)
                return None
            if is_at(path, descriptor):  # else removed before it was locked
                changed = os.fstat(descriptor).st_mtime_ns
                with contextlib.suppress(OSError):  # when it was used; when it was changed tells readers of damage
                    os.utime(descriptor, ns=(time.time_ns(), changed))
                return descriptor
            os.close(descriptor)
        if missing is not None:
            raise self.failure(missing)
        return None

    def failure(self, error: OSError) -> PetsegError:
        """Return the error for what the disk refused."""
        what = f"the cache {self.folder} cannot be used: {error.strerror}"
        if error.errno in FULL:
            return CacheTooSmallError(f"{what}; free some space, or choose another disk with {option('cache')}")
        return PetsegError(f"{what}; choose another folder with {option('cache')}")


def _is_published(path: Path, status: os.stat_result) -> bool:
    """Whether a file that was being fetched has become a complete one since its status was read."""
    with contextlib.suppress(OSError):
        return path.suffix == ".fetch" and os.path.samestat(path.with_suffix("").lstat(), status)
    return False


def _space(path: Path, status: os.stat_result) -> int:
    """Return the bytes that a file takes on the disk, or will take."""
    return max(status.st_blocks * 512, status.st_size if path.name.endswith(".fetch") else 0)
