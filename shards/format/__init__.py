"""The format of a shard set: file names, sample records, manifest, tar headers and keys, for writing and reading.

:class:`ShardSet` opens a finished set.
"""

from shards.format.dataset import ShardSet, SplitReader
from shards.format.layout import CLASSES, SPLITS, STORAGES, Split, Storage
from shards.format.manifest import Manifest, load_manifest

__all__ = ["CLASSES", "SPLITS", "STORAGES", "Manifest", "ShardSet", "Split", "SplitReader", "Storage", "load_manifest"]
