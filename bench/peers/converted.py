"""What peers with a format of their own share: the stored members of every sample, to be converted."""

from __future__ import annotations

from collections.abc import Iterator

from bench.peers.job import Job
from shards.format.dataset import ShardSet


def stored_members(job: Job) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield index, picture and trimap of every sample, the bytes as the shard set holds them."""
    reader = ShardSet.open(job.shards).split(job.split)
    for index in range(len(reader)):
        yield index, reader.read(index, "image"), reader.read(index, "trimap")
