"""Atomic writing: a file is written under another name, flushed to the disk and renamed, so it is never partial."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

FILE_MODE = 0o644  # fixed, not inherited: the same set on every machine, whatever the umask
PARTIAL_PREFIX = ".partial-"


@contextlib.contextmanager
def atomic_file(path: Path, *, sync: bool = True) -> Iterator[BinaryIO]:
    """Open a binary file that appears as ``path`` only when the block ends without an exception.

    The bytes are fsynced before the rename, and the folder after it, so that a power cut leaves the old file
    or the new one; ``sync=False`` leaves this to the caller (see :func:`sync_file`), who does it while other work goes
    on. On an exception, such as the ``OSError`` of a full disk, the partial file is removed and ``path`` is unchanged.
    """
    handle = tempfile.NamedTemporaryFile(  # noqa: SIM115 - closed below, before the rename
        dir=path.parent,
        prefix=f"{PARTIAL_PREFIX}{path.name[:40]}-",
        delete=False,  # a longer name may be too long
    )
    partial = Path(handle.name)
    try:
        with handle:
            yield handle.file  # type: ignore[misc]
            handle.flush()
            os.fchmod(handle.fileno(), FILE_MODE)
            if sync:
                os.fsync(handle.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if sync:
        sync_folder(path.parent)


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write ``data`` (text as UTF-8) as ``path`` atomically; see :func:`atomic_file`."""
    with atomic_file(path) as handle:
        handle.write(data.encode() if isinstance(data, str) else data)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's content."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sync_file(path: Path) -> None:
    """Flush a file's content to the disk."""
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries (names) to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
