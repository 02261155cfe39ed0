"""What the layouts share: which files a folder holds, which mask belongs to which image, what lists name.

:func:`pair_up` pairs images and masks by name; :func:`listed_splits` reads which split names them.
"""

from shards.sources.pairs.listing import ListedFile, list_files, read_names
from shards.sources.pairs.pairing import Paired, pair_up
from shards.sources.pairs.split_lists import listed_splits

__all__ = ["ListedFile", "Paired", "list_files", "listed_splits", "pair_up", "read_names"]
