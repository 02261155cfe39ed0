"""What is possible on these cores: the parts that no loader can omit, each alone and in as many threads as cores.

Images are decoded by libjpeg-turbo through simplejpeg, which releases the interpreter's lock meanwhile, so that threads
use all cores. Masks are not: they need not be stored as PNG.
"""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from bench.core.rounds import Subject
from bench.core.workspace import StoredSplit
from bench.results.records import Limit, Repeat
from shards.cores import usable_cores
from shards.format.dataset import ShardSet


class LimitSubject(Subject):
    """One part of the work, done for sample i by ``task(i)`` in as many threads as cores for about ``seconds``."""

    part = "limits"

    def __init__(self, name: str, storage: str, how: str, samples: int, task: Callable[[int], Any]) -> None:
        super().__init__(f"{name} {storage}")
        self.title, self.storage, self.how, self.seconds = name, storage, how, 0.5
        self._chunks = np.array_split(np.arange(samples), max(1, min(usable_cores(), samples)))
        self._samples, self._task = samples, task

    def turn(self) -> Repeat:
        """Run the task on all samples, again and again; before the clock starts, on some."""
        with ThreadPoolExecutor(len(self._chunks)) as pool:
            list(pool.map(self._run, [chunk[:8] for chunk in self._chunks]))
            start, done = time.perf_counter(), 0
            while (spent := time.perf_counter() - start) < self.seconds:
                list(pool.map(self._run, self._chunks))
                done += self._samples
        return Repeat(images=done, seconds=spent)

    def line(self) -> Limit:
        """Return what was found."""
        return Limit(name=self.title, storage=self.storage, how=self.how, repeats=tuple(self.repeats))

    def _run(self, chunk: np.ndarray[Any, Any]) -> None:
        for i in chunk.tolist():
            self._task(i)


def storage_limits(stored: StoredSplit, *, size: int, seed: int) -> list[LimitSubject]:
    """Return what reading and decoding one storage takes."""
    reader = ShardSet.open(stored.shards).split(stored.split)
    storage, count = stored.storage, len(reader)
    images = [reader.read(i, "image") for i in range(count)] if storage != "raw" else []
    reader.close()
    how = "pread of each member, in random order, page cache warm"
    found = [LimitSubject("read", storage, how, count, _reading(stored, seed))]
    if images:
        how = "libjpeg-turbo through simplejpeg, images alone"
        found.append(LimitSubject("decode", storage, how, count, lambda i: decode_jpeg(images[i])))
    if storage == "source":
        how = f"the same, at the smallest scale that is not below {size} pixels"
        found.append(LimitSubject("decode, scaled", storage, how, count, lambda i: decode_jpeg(images[i], size)))
    return found


def copy_limit(*, size: int, samples: int) -> LimitSubject:
    """Return what writing the output's bytes once takes: image and one-hot mask of each sample."""
    made, into = np.zeros((2, 64, 6 * size * size), np.uint8)  # larger than what a core's own cache holds

    def task(i: int) -> None:
        into[i % 64] = made[(i * 7) % 64]

    return LimitSubject("copy", "", "memcpy of image and one-hot mask of each sample", samples, task)


def decode_jpeg(data: bytes, size: int = 0) -> Any:
    """Decode a JPEG, at the smallest of libjpeg's scales that is not below ``size`` pixels a side; 0: full scale."""
    import simplejpeg

    return simplejpeg.decode_jpeg(data, "RGB", min_height=size, min_width=size)


def _reading(stored: StoredSplit, seed: int) -> Callable[[int], None]:
    reader = ShardSet.open(stored.shards).split(stored.split)
    rows = reader.rows(np.random.default_rng(seed).permutation(len(reader)))
    members = [(rows[f"{role}_offset"].tolist(), rows[f"{role}_length"].tolist()) for role in ("image", "trimap")]
    shards = rows["shard"].tolist()
    tars = [reader.shard_path(number).open("rb", buffering=0) for number in range(len(reader.entry.shards))]

    def task(i: int) -> None:
        for offsets, lengths in members:
            os.pread(tars[shards[i]].fileno(), lengths[i], offsets[i])

    return task
