"""The format of a shard set: file names, sample records, manifest, tar headers and keys, written and read.

:class:`ShardSet` opens a finished set.
"""

from shards.format.dataset import ShardSet, SplitReader
from shards.format.keys import assign_keys
from shards.format.layout import CLASSES, SAMPLE_DTYPE, SPLITS, STORAGES, Split, Storage
from shards.format.manifest import Manifest, dump_manifest, load_manifest

__all__ = [
    "CLASSES",
    "SAMPLE_DTYPE",
    "SPLITS",
    "STORAGES",
    "Manifest",
    "ShardSet",
    "Split",
    "SplitReader",
    "Storage",
    "assign_keys",
    "dump_manifest",
    "load_manifest",
]
