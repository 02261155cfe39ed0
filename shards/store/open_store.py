"""The store that a path or an address names."""

from pathlib import Path

from shards.store.addresses import parse_address
from shards.store.cloud.object_store import ObjectStore
from shards.store.folder_store import FolderStore
from shards.store.store_protocol import Store


def open_store(place: str | Path) -> Store:
    """Return the store of a folder (a path, existing or not) or of an ``s3://``, ``gs://``, ``az://``, ``https://``.

    Nothing is read or requested yet. Raises ``UsageError`` for an address that cannot be used.
    """
    address = parse_address(place)
    return FolderStore(address) if isinstance(address, Path) else ObjectStore(address)
