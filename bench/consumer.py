"""A consumer of so many pictures/s in a network's place: shows on any machine which loader starves which GPU."""

from __future__ import annotations

import time
from typing import Any

from bench.check import CheckError
from bench.job import Job
from bench.peers.base import Peer
from bench.statistics import percentile


def consume(peer: Peer, job: Job, *, rate: float, epochs: int, first_epoch: int) -> dict[str, Any]:
    """Take whole epochs, sleeping after each batch as long as a device of ``rate`` pictures/s would be busy with it.

    The consumer uses no processor time, as a network on a GPU hardly does.

    Args:
        peer: opened.
        job: what it delivers.
        rate: pictures per second that the consumer can take.
        epochs: how many.
        first_epoch: number of the first.

    Returns:
        ``rate`` reached, ``wait_share`` of the time spent waiting for batches, ``step_ms`` median and 95th percentile.
    """
    waited = 0.0
    steps: list[float] = []
    pictures = 0
    start = last = time.perf_counter()
    for number in range(first_epoch, first_epoch + epochs):
        for batch in peer.epoch(number):
            waited += time.perf_counter() - last
            valid = int((batch.index >= 0).sum())
            pictures += valid
            time.sleep(valid / rate)
            now = time.perf_counter()
            steps.append(now - last)
            last = now
    seconds = time.perf_counter() - start
    if pictures != epochs * job.samples:
        raise CheckError(f"{epochs} epochs had {pictures} samples, expected {epochs * job.samples}")
    return {
        "rate": pictures / seconds,
        "wait_share": waited / seconds,
        "step_ms": [1e3 * percentile(steps, part) for part in (0.5, 0.95)],
    }
