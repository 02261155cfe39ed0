"""How a dataset becomes a shard set: splits, plan, shards built in parallel, assembled and published as a whole.

A build that was interrupted at any moment is resumed by the same call; the same input gives the same bytes.
"""

from shards.build.build_set import build
from shards.build.options import PackOptions, options_from
from shards.build.outcome.build_result import BuildResult, StrictError

__all__ = ["BuildResult", "PackOptions", "StrictError", "build", "options_from"]
