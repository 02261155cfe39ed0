"""Offline preparation: a dataset of images and masks becomes a shard set that can be verified.

Nothing here imports torch or DALI.
"""

from shards.errors import FormatError, PetsegError, SampleError, SourceError, UsageError
from shards.format.dataset import ShardSet, SplitReader
from shards.format.manifest import Manifest, load_manifest

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
