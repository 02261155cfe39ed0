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
from bench.peers.fast_decode import decode_image
from bench.peers.peer import Job
from bench.results.records import Limit, Repeat
from shards.cores import usable_cores
from shards.format.dataset import ShardSet
from shards.format.geometry import size_text
from shards.format.layout import member_span


class LimitSubject(Subject):
    """One part of the work, done for sample i by ``task(i)`` in as many threads as cores for about ``seconds``."""

    part, field, seconds = "limits", "limits", 0.5

    def __init__(self, samples: int, task: Callable[[int], Any], **line: str) -> None:
        """``line`` are fields of the :class:`Limit`."""
        super().__init__(" ".join(filter(None, (line["name"], line.get("storage"), line.get("mask")))))
        self._line: dict[str, Any] = line
        self._task = task
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
        return Limit(repeats=tuple(self.repeats), **self._line)

    def _run(self, chunk: np.ndarray[Any, Any]) -> int:
        for i in chunk.tolist():
            self._task(i)
        return len(chunk)


def storage_limits(job: Job) -> list[LimitSubject]:
    """Return what reading and decoding one storage takes."""
    storage, reader = job.storage, ShardSet.open(job.shards).split(job.split)
    images = [reader.read(i, "image") for i in range(len(reader))] if storage != "raw" else []
    rows = reader.rows(np.random.default_rng(job.seed).permutation(len(reader)))
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
        how = f"the same, at the smallest scale that is not below {size_text(job.size)} pixels"
        tasks["decode, scaled"] = how, lambda i: decode_image(images[i], job.size)
    return [LimitSubject(len(rows), task, name=name, how=how, storage=storage) for name, (how, task) in tasks.items()]


def copy_limit(job: Job) -> LimitSubject:
    """Return what writing the output's bytes once takes: image and mask of each sample."""
    planes = 3 + (job.classes if job.onehot else 1)
    many = max(2, (24 << 20) // (planes * math.prod(job.size)))  # samples: more than a core's own cache holds
    made, into = np.zeros((2, many, planes * math.prod(job.size)), np.uint8)

    def task(i: int) -> None:
        into[i % many] = made[(i * 7) % many]

    how = f"memcpy of image and mask of each sample, {planes} planes"
    return LimitSubject(job.samples, task, name="copy", how=how, mask=job.mask)
