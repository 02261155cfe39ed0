"""Which folder is the cache of sets in object stores, and how much it may hold."""

import errno
import os
from pathlib import Path

from shards.errors import PetsegError, UsageError
from shards.store.byte_sizes import parse_bytes
from shards.store.remote import content_cache
from shards.store.remote.content_cache import ContentCache


def open_cache(folder: str | Path | None, most: int | str | None) -> ContentCache:
    """Return the cache in a folder, which is created; None: ``petseg`` in the user's cache folder.

    ``most`` is its bound in bytes, or as text such as ``200GB``; None: half of what is free on its disk, counting what
    it holds already as free.

    Raises ``UsageError`` for a bound that is too small, ``PetsegError`` where there is no folder for it.
    """
    most_bytes = None if most is None else parse_bytes(most, name="--cache-bytes")
    if most_bytes is not None and most_bytes < content_cache.LEAST_BYTES:
        raise UsageError(f"--cache-bytes {most_bytes} is too small; give at least {content_cache.LEAST_BYTES}")
    if folder is None:
        base = os.environ.get("XDG_CACHE_HOME")
        try:
            folder = Path(base) / "petseg" if base else Path.home() / ".cache" / "petseg"
        except RuntimeError:
            raise PetsegError(
                "there is no home folder to cache a remote set in; give one with --cache DIR, or set XDG_CACHE_HOME"
            ) from None
    place = Path(folder).absolute()
    try:
        place.mkdir(parents=True, exist_ok=True)
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if most_bytes is None:
            space = os.statvfs(place)
            most_bytes = max(
                content_cache.LEAST_BYTES, (space.f_bavail * space.f_frsize + ContentCache(place, 0).used_bytes()) // 2
            )
    except OSError as error:
        raise ContentCache(place, 0).failure(error) from None
    return ContentCache(place, most_bytes)
