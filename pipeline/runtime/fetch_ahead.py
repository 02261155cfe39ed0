"""What batches to come need is requested well before they are made: of a set in an object store, and of a local one."""

from collections import Counter, deque
from collections.abc import Iterator
from itertools import islice

from pipeline.engine import BatchWork
from pipeline.io.read_ahead import MOST_AHEAD, ReadAhead
from pipeline.runtime.batch_plan import BatchIndices, BatchPlan
from shards.store.remote.cached_tars import WHOLE_FROM, CachedTars

MOST_FETCHED = 1 << 27  # bytes of samples that are requested in advance, and no more than a quarter of the cache

Planned = tuple[BatchIndices, BatchWork]


def fetched_ahead(plan: BatchPlan, batches: Iterator[Planned]) -> Iterator[Planned]:
    """Yield batches of a plan in their order, having begun to fetch those that follow; at most one epoch ahead.

    With ``fetch="auto"``, a tar is fetched whole where :data:`WHOLE_FROM` of its bytes belong to those batches: in
    stored order always, in a shuffled one where the set is small.
    """
    remote = plan.reader.files.remote
    if remote is None:
        yield from _read_ahead(plan, batches)
        return
    most_bytes = min(MOST_FETCHED, remote.files.cache.most_bytes // 4)
    window = _Window(remote)
    for planned in batches:
        window.append(planned)
        while len(window) > plan.options.prefetch + 1 and (
            window.bytes > most_bytes or len(window) > plan.slices.batches
        ):
            yield window.pop()
    while window:
        yield window.pop()


def _read_ahead(plan: BatchPlan, batches: Iterator[Planned]) -> Iterator[Planned]:
    """Yield batches of a local set, announcing each part of them before the part before it is yielded.

    The first part is what is made at once: it does not wait until the disk has read all that was announced.
    """
    ahead = ReadAhead(plan.reader.files, len(plan.reader.split))
    part: list[Planned] = []
    most = plan.options.prefetch + 1
    while ahead.wanted:
        following: list[Planned] = []
        try:
            following.extend(_part(batches, most=most))
        except Exception:  # of a damaged record: raised in its turn
            yield from [*part, *following]
            raise
        if not following:
            break
        ahead.announce([work.indices for _, work in following], [work.rows for _, work in following])
        yield from part
        part, most = following, plan.slices.batches
    yield from part
    yield from batches


def _part(batches: Iterator[Planned], *, most: int) -> Iterator[Planned]:
    """Take the next batches: at most so many, and until they have half of the bytes that may be announced."""
    left = MOST_AHEAD // 2
    for planned in islice(batches, most):
        yield planned
        rows = planned[1].rows
        left -= int(rows["image_length"].sum() + rows["mask_length"].sum())
        if left <= 0:
            return


class _Window:
    """Batches that are fetched in advance. They are requested when the first one is taken, knowing the others."""

    def __init__(self, remote: CachedTars) -> None:
        self._remote = remote
        self._batches: deque[Planned] = deque()
        self._new: deque[Planned] = deque()  # not requested yet
        self._wanted: Counter[int] = Counter()  # bytes by shard
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._batches)

    def append(self, planned: Planned) -> None:
        self._batches.append(planned)
        self._new.append(planned)
        self._count(planned[1], 1)

    def pop(self) -> Planned:
        while self._new:
            self._request(self._new.popleft()[1])
        planned = self._batches.popleft()
        self._count(planned[1], -1)
        return planned

    def _count(self, work: BatchWork, sign: int) -> None:
        sizes = work.rows["image_length"].astype(int) + work.rows["mask_length"].astype(int)
        for shard, size in zip(work.rows["shard"].tolist(), sizes.tolist(), strict=True):
            self._wanted[shard] += sign * size
        self.bytes += sign * int(sizes.sum())

    def _request(self, work: BatchWork) -> None:
        shards = work.rows["shard"].tolist()
        whole = set(shards) if self._remote.fetch == "shard" else set()
        if self._remote.fetch == "auto":
            whole = {
                shard for shard in set(shards) if self._wanted[shard] >= WHOLE_FROM * self._remote.tar(shard).bytes
            }
        self._remote.start(shards, work.indices.tolist(), whole=whole)
