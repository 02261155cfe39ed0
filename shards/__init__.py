"""Offline: a folder of pictures and trimaps becomes a shard set, a folder that can be trusted.

Nothing here imports torch or DALI.
"""

from shards.errors import FormatError, PetsegError, SampleError, SourceError, UsageError
from shards.manifest import Manifest, load_manifest
from shards.shardset import ShardSet, SplitReader

__all__ = [
    "FormatError",
    "Manifest",
    "PetsegError",
    "SampleError",
    "ShardSet",
    "SourceError",
    "SplitReader",
    "UsageError",
    "load_manifest",
]
