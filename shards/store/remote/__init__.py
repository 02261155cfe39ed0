"""Sets in an object store: what is read of them is kept in a cache on the local disk, from which everything is used.

``content_cache`` holds files by SHA-256 for all processes of a machine, each a ``cached_file``; ``remote_files``
fetches whole files into it; ``cached_tars`` fetches the samples of one split, in ranges or with their whole tar.
"""

from shards.store.remote.cache_place import open_cache
from shards.store.remote.cached_tars import CachedTars
from shards.store.remote.content_cache import ContentCache
from shards.store.remote.remote_files import FETCHES, Fetch, FileSpec, RemoteFiles, SampleSpan

__all__ = ["FETCHES", "CachedTars", "ContentCache", "Fetch", "FileSpec", "RemoteFiles", "SampleSpan", "open_cache"]
