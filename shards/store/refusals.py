"""What a file system may refuse without a file being lost: permissions, flushing, renaming, locks. Said once each.

Network shares (CIFS), object stores mounted as folders and some user-space file systems lack one or several of these.
Errors that mean lost data, such as a full disk, are never taken for a refusal.
"""

import contextlib
import ctypes
import errno
import fcntl
import logging
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from shards.errors import PetsegError, printable

log = logging.getLogger("petseg.files")

_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY})
_NO_MODE = _UNSUPPORTED | {errno.EPERM, errno.EACCES}  # CIFS and FAT: EPERM
# EBADF: a server that wants a file opened for writing; EISDIR: one that knows no flushing of folders.
_NO_FLUSH = _UNSUPPORTED | {errno.EBADF, errno.EISDIR}
_NO_FOLDER_FLUSH = _NO_FLUSH | {errno.EACCES, errno.EPERM}  # a folder that one may write to, but not read
# EXDEV: an overlay's lower layer, or two devices; the others: mounted object stores.
NO_RENAME = frozenset({errno.EXDEV, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
_NO_SPECIAL_RENAME = NO_RENAME | {errno.EINVAL}
_AT_FDCWD, _RENAME = -100, {"no replace": 1, "exchange": 2}  # of Linux
NO_LINK = frozenset({errno.EPERM, errno.EXDEV, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK})
# EBADF: NFS, whose exclusive locks need a descriptor for writing, which a folder has not; EIO: Lustre without -o flock.
_NO_LOCK = _UNSUPPORTED | {errno.ENOLCK, errno.EBADF, errno.EIO}

TURN_SECONDS = 60.0  # that a process waits for others to write their files; they take seconds

_said: set[tuple[str, object]] = set()


def say_once(what: str, folder: Path, text: str) -> None:
    """Log a warning once for ``what`` and the file system of ``folder``; worker processes leave it to their parent."""
    try:
        where: object = folder.stat().st_dev
    except OSError:
        where = str(folder)
    if (what, where) not in _said:
        _said.add((what, where))
        if multiprocessing.parent_process() is None:
            log.warning("%s", printable(text))


def set_mode(path: Path | int, mode: int, *, folder: Path) -> None:
    """Set the permissions of a file (a path, or a descriptor) in ``folder``, where its file system has any."""
    try:
        if os.stat(path).st_mode & 0o777 != mode:  # noqa: PTH116 - of a descriptor too
            os.chmod(path, mode) if isinstance(path, Path) else os.fchmod(path, mode)  # noqa: PTH101
    except OSError as error:
        if error.errno not in _NO_MODE:
            raise
        text = f"{folder}: permissions cannot be set there ({error.strerror}); files keep those that they have"
        say_once("mode", folder, text)


def flush_file(descriptor: int, *, folder: Path) -> None:
    """Flush an open file of ``folder`` to the disk, where its file system does so."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        _accept_no_flush(error, folder, _NO_FLUSH)


def flush_folder(folder: Path) -> None:
    """Flush a folder's entries (names) to the disk, where its file system does so."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        _accept_no_flush(error, folder, _NO_FOLDER_FLUSH)


def _accept_no_flush(error: OSError, folder: Path, accepted: frozenset[int]) -> None:
    if error.errno not in accepted:
        raise error
    text = f"{folder}: its file system takes no request to flush ({error.strerror})"
    say_once("flush", folder, f"{text}; a power cut may lose what was written last")


def rename_file(source: Path, target: Path) -> None:
    """Rename a file, replacing ``target``; where the file system does not, copy its bytes, and remove ``source``."""
    try:
        source.replace(target)
        return
    except OSError as error:
        if error.errno not in NO_RENAME:
            raise
        reason = error.strerror
    text = f"{target.parent}: its file system does not rename files ({reason}); they are copied"
    say_once("rename", target.parent, f"{text}, and one that is being replaced is lost if the program is killed")
    copy_file(source, target)
    source.unlink()


def rename_specially(source: Path, target: Path, how: Literal["no replace", "exchange"]) -> bool:
    """Rename a file or folder in one step (Linux's renameat2); return False where the system has no such step.

    With ``no replace``, ``FileExistsError`` is raised if there is a ``target``; ``exchange`` swaps the two.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME[how]) == 0:
        return True
    if (code := ctypes.get_errno()) in _NO_SPECIAL_RENAME:
        return False
    raise OSError(code, os.strerror(code), str(target))


def rename_folder(source: Path, target: Path, *, last: str) -> None:
    """Rename a folder to ``target``, which is not there, or empty.

    Where the file system does not rename folders (an overlay's lower layer, a mounted object store), the files are
    copied, the one named ``last``, which makes the others count, at the end; then ``source`` is emptied.
    """
    try:
        source.rename(target)
        return
    except OSError as error:
        if error.errno not in NO_RENAME:
            raise
        reason = error.strerror
    text = f"{target.parent}: its file system does not rename folders ({reason}); the files are copied"
    say_once("rename folder", target.parent, text)
    shutil.copytree(source, target, copy_function=_copy, ignore=lambda _, names: {last} & {*names}, dirs_exist_ok=True)
    flush_folder(target)
    if (source / last).exists():
        copy_file(source / last, target / last)
    flush_folder(target)
    (source / last).unlink(missing_ok=True)  # first, so that no half-removed folder looks whole
    shutil.rmtree(source)


def _copy(source: str, target: str) -> None:
    copy_file(Path(source), Path(target))


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's bytes and permissions, and flush them; after an error there is no ``target``.

    As a rename does, it replaces a link, and not the file that has other names, too.
    """
    try:
        target.unlink(missing_ok=True)
        with source.open("rb") as reader, target.open("xb") as writer:
            shutil.copyfileobj(reader, writer, 2**20)
            writer.flush()
            set_mode(writer.fileno(), os.fstat(reader.fileno()).st_mode & 0o777, folder=target.parent)
            flush_file(writer.fileno(), folder=target.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            target.unlink()
        raise


def lock_at_once(descriptor: int, *, folder: Path) -> Literal["locked", "busy", "unsupported"]:
    """Lock an open file or folder, of or in ``folder``, for this process and those that inherit the descriptor."""
    error = _lock_error(descriptor)
    if error is not None and not _is_held(error):
        if error.errno not in _NO_LOCK:
            raise error
        text = f"{folder}: its file system has no locks ({error.strerror}); a file says which process works there"
        say_once("lock", folder, text)
        return "unsupported"
    return "locked" if error is None else "busy"


def _lock_error(descriptor: int) -> OSError | None:
    """Lock an open file or folder at once; return why that was refused, None if it is locked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error
    return None


def _is_held(error: OSError) -> bool:
    """Return whether a lock is refused because another process holds it; some servers say EACCES then."""
    return isinstance(error, BlockingIOError) or error.errno == errno.EACCES


@contextlib.contextmanager
def taking_turns(folder: Path) -> Iterator[None]:
    """Within the block, no other process is in such a block for ``folder``: what it writes there belongs together.

    Where a folder cannot be locked, nobody waits. ``PetsegError`` after :data:`TURN_SECONDS`.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # a folder that one may write to, but not read; or what the block itself will find
        yield
        return
    try:
        deadline = time.monotonic() + TURN_SECONDS
        while (error := _lock_error(descriptor)) is not None and _is_held(error):
            if time.monotonic() > deadline:
                what = f"another process has been writing results there for {TURN_SECONDS:.0f} s"
                raise PetsegError(f"{folder}: {what}; run the same command again when it has ended")
            time.sleep(0.02)
        yield
    finally:
        with contextlib.suppress(OSError):  # a fork may have the descriptor, too, and would keep the lock
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
