"""What the layouts share: which files a folder holds, which mask belongs to which image, what lists name."""

from shards.sources.pairs.listing import ListedFile, list_files
from shards.sources.pairs.pairing import Paired, pair_up

__all__ = ["ListedFile", "Paired", "list_files", "pair_up"]
