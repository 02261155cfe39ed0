"""What is possible on these cores: the parts that no loader can leave out, each alone and in as many threads as cores.

Pictures are decoded by libjpeg-turbo through simplejpeg, which releases the interpreter's lock meanwhile, so that
threads use all cores. Trimaps are not: they need not be stored as PNG.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.workspace import Stored
from shards.format.dataset import ShardSet

WINDOW_SECONDS = 0.5
Task = Callable[[int], Any]


@dataclass(frozen=True)
class Probe:
    """One part of the work, done for sample i by ``task(i)``."""

    name: str
    storage: str
    how: str
    samples: int
    task: Task


def make_probes(stored: Stored, *, split: str, size: int, seed: int) -> list[Probe]:
    """Return the probes for one storage."""
    reader = ShardSet.open(stored.shards).split(split)
    count = len(reader)
    probes = [_reading(stored, split, seed)]
    if stored.storage in ("source", "jpeg"):
        images = [reader.read(i, "image") for i in range(count)]
        reader.close()
        how = "libjpeg-turbo through simplejpeg, pictures alone"
        probes.append(Probe("decode", stored.storage, how, count, lambda i: decode_jpeg(images[i])))
        if stored.storage == "source":
            scaled = f"the same, at the smallest scale that is not below {size} pixels"
            probes.append(
                Probe("decode, scaled", stored.storage, scaled, count, lambda i: decode_jpeg(images[i], size))
            )
    return probes


def copy_probe(*, size: int, samples: int) -> Probe:
    """Return the probe that writes the output's bytes once: picture and one-hot mask of each sample."""
    made = np.zeros((64, 6 * size * size), np.uint8)  # larger than what a core's own cache holds
    into = np.zeros((64, 6 * size * size), np.uint8)

    def task(i: int) -> None:
        into[i % 64] = made[(i * 7) % 64]

    return Probe("copy", "", "memcpy of picture and one-hot mask of each sample", samples, task)


def run_probe(probe: Probe, *, cores: int, seconds: float = WINDOW_SECONDS) -> float:
    """Run a probe in as many threads as cores for about ``seconds``; return pictures per second.

    The window begins with one untimed round over a part of the samples.
    """
    chunks = np.array_split(np.arange(probe.samples), max(1, min(cores, probe.samples)))

    def work(chunk: Sequence[int]) -> None:
        for i in chunk:
            probe.task(int(i))

    with ThreadPoolExecutor(len(chunks)) as pool:
        list(pool.map(work, [chunk[:8] for chunk in chunks]))
        start = time.perf_counter()
        done = 0
        while (spent := time.perf_counter() - start) < seconds:
            list(pool.map(work, chunks))
            done += probe.samples
    return done / spent


def _reading(stored: Stored, split: str, seed: int) -> Probe:
    reader = ShardSet.open(stored.shards).split(split)
    order = np.random.default_rng(seed).permutation(len(reader))
    rows = reader.rows(order)
    members = [(rows[f"{role}_offset"].tolist(), rows[f"{role}_length"].tolist()) for role in ("image", "trimap")]
    shards = rows["shard"].tolist()
    tars = [reader.shard_path(number).open("rb", buffering=0) for number in range(len(reader.entry.shards))]

    def task(i: int) -> None:
        descriptor = tars[shards[i]].fileno()
        for offsets, lengths in members:
            os.pread(descriptor, lengths[i], offsets[i])

    return Probe("read", stored.storage, "pread of each member, in random order, page cache warm", len(rows), task)


def decode_jpeg(data: bytes, size: int = 0) -> Any:
    """Decode a JPEG, at the smallest of libjpeg's scales that is not below ``size`` pixels a side; 0: full scale."""
    import simplejpeg

    return simplejpeg.decode_jpeg(data, "RGB", min_height=size, min_width=size)
