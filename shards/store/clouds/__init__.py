"""Object stores and web servers: requests by obstore, in a thread of their own, repeated where a failure may pass.

obstore is imported by the first request, because its runtime does not survive a fork.
"""

from shards.store.clouds.object_store import ObjectStore, Patience

__all__ = ["ObjectStore", "Patience"]
