"""The format of a shard set: file names, sample records, manifest, tar headers and keys, for writing and reading.

:class:`ShardSet` opens a finished set.
"""

from shards.format.dataset import ShardSet, SplitReader
from shards.format.geometry import FITS, Fit, Size
from shards.format.labels import IGNORE, LabelClass, Labels
from shards.format.layout import SPLITS, STORAGES, Split, Storage
from shards.format.manifest import Manifest, load_manifest

__all__ = [
    "FITS",
    "IGNORE",
    "SPLITS",
    "STORAGES",
    "Fit",
    "LabelClass",
    "Labels",
    "Manifest",
    "ShardSet",
    "Size",
    "Split",
    "SplitReader",
    "Storage",
    "load_manifest",
]
