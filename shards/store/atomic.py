"""Atomic writing: a file is written under another name, flushed to the disk and renamed, so it is never partial.

What a file system may refuse of this without loss is in :mod:`shards.store.refusals`.
"""

import contextlib
import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from shards.errors import FULL_DISK, valid_text
from shards.store.owner_files import OwnedError, claim
from shards.store.refusals import NO_LINK, flush_file, flush_folder, rename_file, rename_specially, set_mode

FILE_MODE = 0o644  # fixed, not inherited: the same set on every machine, whatever the umask
PARTIAL_PREFIX = ".partial-"
_KEPT = 20  # characters of a name that its partial file's shows; in all under 143 bytes, the shortest limit there is


def partial_name(path: Path, token: str) -> str:
    """Return under which name, made unique by ``token``, a file is written that will be ``path``."""
    return f"{PARTIAL_PREFIX}{path.name[:_KEPT]}-{token}"


@contextlib.contextmanager
def atomic_file(path: Path, *, sync: bool = True, replace: bool = True) -> Iterator[BinaryIO]:
    """Open a binary file that appears as ``path`` only when the block ends without an exception.

    The bytes are fsynced before the rename, and the folder after it, so that a power cut leaves the old file
    or the new one; ``sync=False`` leaves this to the caller (see :func:`sync_file`), who does it while other work goes
    on. Without ``replace``, a file of this name that another process has made meanwhile stays, and ``OSError`` says so.
    On an exception, such as the ``OSError`` of a full disk, the partial file is removed and ``path`` is unchanged;
    the error names ``path``.
    """
    with naming(path):
        _refuse_special(path)
        handle = tempfile.NamedTemporaryFile(  # noqa: SIM115 - closed below, before the rename
            dir=path.parent,
            prefix=partial_name(path, ""),
            delete=False,
        )
    partial = Path(handle.name)
    try:
        with _naming_a_full_disk(path), handle:  # closing it writes what it still holds, and fails again
            yield handle.file  # type: ignore[misc]
            with naming(path):
                handle.flush()
                set_mode(handle.fileno(), FILE_MODE, folder=path.parent)
                if sync:
                    flush_file(handle.fileno(), folder=path.parent)
        with naming(path):
            rename_file(partial, path) if replace else create_file(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    if sync:
        sync_folder(path.parent)


def create_file(source: Path, target: Path) -> None:
    """Rename a file to ``target``; raise ``FileExistsError`` if there is one. Of several processes, one succeeds.

    Where the file system has neither hard links nor a rename that replaces nothing, whoever holds a claim beside
    ``target`` may rename. One that a killed process left counts no longer: see :mod:`shards.store.owner_files`.
    """
    if rename_specially(source, target, "no replace"):
        return
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        _create_by_claim(source, target)
    else:
        source.unlink()


def rename_together(files: Mapping[Path, Path], *, replace: bool) -> None:
    """Rename files, partial name to name, in their order; after an error each name leads to what it led to before.

    The partial names have what was replaced then, for the caller to remove. Where the file system cannot exchange two
    files, what was replaced before the error stays so. Without ``replace``, ``FileExistsError`` for a file that exists.
    """
    undo = contextlib.ExitStack()
    with undo:
        for partial, path in files.items():
            with naming(path):
                _refuse_special(path)
                exists = os.path.lexists(path)
                if replace and exists and not path.is_dir() and rename_specially(partial, path, "exchange"):
                    undo.callback(rename_specially, partial, path, "exchange")
                    continue
                rename_file(partial, path) if replace else create_file(partial, path)
                if not exists:
                    undo.callback(path.unlink, missing_ok=True)
        undo.pop_all()


def _create_by_claim(source: Path, target: Path) -> None:
    digest = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]  # the name itself may be as long as names can be
    exists = FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    try:
        release = claim(target.with_name(f"{PARTIAL_PREFIX}claim-{digest}"), locked=False)
    except OwnedError:
        raise exists from None
    try:
        if os.path.lexists(target):
            raise exists
        rename_file(source, target)
    finally:
        release()


def _refuse_special(path: Path) -> None:
    """Raise ``OSError`` for a device, pipe or socket: renaming over /dev/null would remove it for everybody."""
    with contextlib.suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode)):  # renaming refuses a folder
            raise OSError(errno.EINVAL, "is a device, pipe or socket, which is not replaced", str(path))


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Within the block, an ``OSError`` is one of ``path``: a user knows that name, not the partial file's."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


@contextlib.contextmanager
def _naming_a_full_disk(path: Path) -> Iterator[None]:
    """The same for errors that only writing raises; others may be of a file that the block reads."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in FULL_DISK:
            error.filename = str(path)
        raise


def write_atomically(path: Path, data: bytes | str, *, replace: bool = True) -> None:
    """Write ``data`` as ``path`` atomically; see :func:`atomic_file`.

    Text becomes UTF-8, also where it holds a file's name in bytes of another encoding (surrogates), as in locale C.
    """
    with atomic_file(path, replace=replace) as handle:
        handle.write(valid_text(data).encode() if isinstance(data, str) else data)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's content."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sync_file(path: Path) -> None:
    """Flush a file's content to the disk, where its file system does so."""
    with path.open("rb") as handle, naming(path):
        flush_file(handle.fileno(), folder=path.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries (names) to the disk, where its file system does so."""
    with naming(folder):
        flush_folder(folder)
