"""Object stores (S3, Google Cloud Storage, Azure Blob) and web servers as stores, by obstore.

obstore is imported by the first request, never before: its runtime does not survive a fork.
"""

from shards.store.cloud.object_store import ObjectStore
from shards.store.cloud.patience import Patience

__all__ = ["ObjectStore", "Patience"]
