"""Where a preview may be written: never over another file unasked, and never into a shard set."""

import contextlib
import os
from pathlib import Path

from shards.errors import UsageError
from shards.format.layout import FORMAT, MANIFEST_NAME
from shards.store.byte_ranges import ByteRanges

_LOOKED_AT = 200  # bytes of a manifest, which names its format first


def check_target(path: Path, *, overwrite: bool) -> None:
    """Raise ``UsageError`` if a file cannot be written here: it exists, is a folder, or would be part of a set.

    ``overwrite`` allows to replace a file, but not one inside a shard set.
    """
    for folder in Path(os.path.realpath(path)).parents:
        if _is_set(folder):
            raise UsageError(f"{path} would be inside the shard set {folder}; choose a place outside of it")
    if path.is_dir():
        raise UsageError(f"{path} is a folder; give the name of a file")
    if (path.exists() or path.is_symlink()) and not overwrite:
        raise UsageError(f"{path} exists; choose another name, or replace it with --overwrite")


def _is_set(folder: Path) -> bool:
    with contextlib.suppress(OSError), ByteRanges(folder / MANIFEST_NAME) as manifest:
        return f'"{FORMAT}"'.encode() in manifest.read(0, _LOOKED_AT)
    return False
