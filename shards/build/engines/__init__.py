"""Where shards are built: in worker processes of this machine, or by the workers of a Dask or Ray cluster.

Each is an executor of :mod:`concurrent.futures`; the engines' own schedulers give a lost worker's shard to another.
"""

from shards.build.engines.cluster_executor import ClusterExecutor
from shards.build.engines.open_executor import open_executor

__all__ = ["ClusterExecutor", "open_executor"]
