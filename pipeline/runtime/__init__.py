"""Prefetching while a loader runs: what is prepared, by which threads, in which memory.

Batches are prepared ahead of the caller, also across the end of an epoch, and delivered in order.
"""

from pipeline.runtime.batch_plan import BatchPlan
from pipeline.runtime.buffers import BufferPool
from pipeline.runtime.prefetch import BatchStream

__all__ = ["BatchPlan", "BatchStream", "BufferPool"]
