"""What is possible on these cores: the parts that no loader can omit, each alone and in as many threads as cores.

Images are decoded by libjpeg-turbo through simplejpeg, which releases the interpreter's lock meanwhile, so that threads
use all cores. Masks are not: they need not be stored as PNG.
"""

import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from bench.core.rounds import Subject
from bench.core.workspace import StoredSplit
from bench.peers.fast_decode import decode_image
from bench.results.records import Limit, Mask, Repeat
from shards.cores import usable_cores
from shards.format.dataset import ShardSet
from shards.format.geometry import Size, size_text
from shards.format.layout import member_span


class LimitSubject(Subject):
    """One part of the work, done for sample i by ``task(i)`` in as many threads as cores for about ``seconds``."""

    part, seconds = "limits", 0.5

    def __init__(
        self, title: str, how: str, samples: int, task: Callable[[int], Any], *, storage: str = "", mask: str = ""
    ) -> None:
        super().__init__(" ".join(filter(None, (title, storage, mask))))
        self.title, self.how, self.storage, self.mask, self._task = title, how, storage, mask, task
        self._chunks = np.array_split(np.arange(samples), max(1, min(usable_cores(), samples)))

    def turn(self) -> Repeat:
        """Run the task on all samples, again and again; before the clock starts, on some."""
        with ThreadPoolExecutor(len(self._chunks)) as pool:
            list(pool.map(self._run, [chunk[:8] for chunk in self._chunks]))
            start, done = time.perf_counter(), 0
            while (spent := time.perf_counter() - start) < self.seconds:
                done += sum(pool.map(self._run, self._chunks))
        return Repeat(images=done, seconds=spent)

    def line(self) -> Limit:
        return Limit(name=self.title, how=self.how, repeats=tuple(self.repeats), storage=self.storage, mask=self.mask)

    def _run(self, chunk: np.ndarray[Any, Any]) -> int:
        for i in chunk.tolist():
            self._task(i)
        return len(chunk)


def storage_limits(stored: StoredSplit, *, size: Size, seed: int) -> list[LimitSubject]:
    """Return what reading and decoding one storage takes."""
    storage, reader = stored.storage, ShardSet.open(stored.shards).split(stored.split)
    images = [reader.read(i, "image") for i in range(len(reader))] if storage != "raw" else []
    rows = reader.rows(np.random.default_rng(seed).permutation(len(reader)))
    reader.close()
    members = [(int(row["shard"]), *member_span(row, role)) for row in rows for role in ("image", "mask")]
    tars = [reader.shard_path(number).open("rb", buffering=0) for number in range(reader.entry.shards)]

    def read(i: int) -> None:
        for shard, offset, length in members[2 * i : 2 * i + 2]:
            os.pread(tars[shard].fileno(), length, offset)

    tasks: dict[str, tuple[str, Callable[[int], Any]]] = {
        "read": ("pread of each member, in random order, page cache warm", read)
    }
    if images:
        how = "libjpeg-turbo through simplejpeg (PNG: OpenCV), images alone"
        tasks["decode"] = how, lambda i: decode_image(images[i])
    if storage == "source":
        how = f"the same, at the smallest scale that is not below {size_text(size)} pixels"
        tasks["decode, scaled"] = how, lambda i: decode_image(images[i], size)
    return [LimitSubject(title, how, len(rows), task, storage=storage) for title, (how, task) in tasks.items()]


def copy_limit(mask: Mask, *, size: Size, classes: int, samples: int) -> LimitSubject:
    """Return what writing the output's bytes once takes: image and mask of each sample."""
    planes = 3 + (classes if mask == "onehot" else 1)
    many = max(2, (24 << 20) // (planes * math.prod(size)))  # samples: more than a core's own cache holds
    made, into = np.zeros((2, many, planes * math.prod(size)), np.uint8)

    def task(i: int) -> None:
        into[i % many] = made[(i * 7) % many]

    return LimitSubject("copy", f"memcpy of image and mask of each sample, {planes} planes", samples, task, mask=mask)
