"""Where files are kept: the local disk, written atomically, or an object store.

Everything that must survive a power cut or a full disk goes through here, and every file of a set is read from here.
"""

from shards.store.addresses import is_remote
from shards.store.atomic import atomic_file, sync_file, sync_folder, write_atomically
from shards.store.byte_ranges import ByteRanges, OpenFiles, open_regular, read_regular
from shards.store.open_store import open_store
from shards.store.store_protocol import (
    ObjectChangedError,
    ObjectExistsError,
    ObjectMissingError,
    ObjectStatus,
    Store,
    StoreError,
)

__all__ = [
    "ByteRanges",
    "ObjectChangedError",
    "ObjectExistsError",
    "ObjectMissingError",
    "ObjectStatus",
    "OpenFiles",
    "Store",
    "StoreError",
    "atomic_file",
    "is_remote",
    "open_regular",
    "open_store",
    "read_regular",
    "sync_file",
    "sync_folder",
    "write_atomically",
]
