"""Which folder is the cache of sets in object stores, and how much it may hold."""

import errno
import os
from pathlib import Path

from shards.errors import PetsegError, UsageError, option
from shards.store.addresses import expect_paths
from shards.store.byte_sizes import parse_bytes
from shards.store.remote import content_cache
from shards.store.remote.content_cache import ContentCache

_ATTEMPTS = 10  # to make a folder that others remove


def check_bound(most: int | str | None) -> int | None:
    """Return the bound of a cache in bytes; raise ``UsageError`` for none, or one that is too small."""
    most_bytes = None if most is None else parse_bytes(most, name="cache_bytes")
    if most_bytes is not None and most_bytes < content_cache.LEAST_BYTES:
        raise UsageError(f"{option('cache_bytes', most_bytes)} is too small; give at least {content_cache.LEAST_BYTES}")
    return most_bytes


def open_cache(folder: str | Path | None, most: int | str | None) -> ContentCache:
    """Return the cache in a folder, which is created; None: ``petseg`` in the user's cache folder.

    ``most`` is its bound in bytes, or as text such as ``200GB``; None: half of what is free on its disk, counting what
    it holds already as free.

    Raises ``UsageError`` for a bound that is too small, ``PetsegError`` where there is no folder for it.
    """
    most_bytes = check_bound(most)
    if folder is None:
        base = os.environ.get("XDG_CACHE_HOME")
        try:
            folder = Path(base) / "petseg" if base else Path.home() / ".cache" / "petseg"
        except RuntimeError:
            raise PetsegError(
                f"there is no home folder for a cache; name one with {option('cache')}, or set XDG_CACHE_HOME"
            ) from None
    expect_paths(cache=folder)
    place = Path(folder).absolute()
    for left in reversed(range(_ATTEMPTS)):
        try:
            free = _free_bytes(place)
            break
        except OSError as error:
            if not left or not isinstance(error, FileNotFoundError | FileExistsError):
                raise ContentCache(place, 0).failure(error) from None
    if most_bytes is None:
        most_bytes = max(content_cache.LEAST_BYTES, (free + ContentCache(place, 0).used_bytes()) // 2)
    return ContentCache(place, most_bytes)


def _free_bytes(place: Path) -> int:
    """Make a folder, and return what is free there; ``OSError`` if it cannot be used, or is removed meanwhile."""
    place.mkdir(parents=True, exist_ok=True)
    if not os.access(place, os.W_OK | os.X_OK):
        place.stat()
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    space = os.statvfs(place)
    return space.f_bavail * space.f_frsize
