"""The clock around a loader: whole epochs, each batch counted, on the CPU and on CUDA."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

from bench.check import CheckError
from bench.job import Job
from bench.peers.base import Delivered, Peer
from bench.process_tree import cpu_seconds
from bench.results import GpuCost, Repeat
from bench.statistics import percentile
from bench.warmup import next_window


class Stopwatch:
    """Times whole epochs of one peer.

    Args:
        peer: opened.
        job: what it delivers.
        moved_per_picture: bytes that cross to the GPU for one picture if the peer itself puts it there.
    """

    def __init__(self, peer: Peer, job: Job, *, moved_per_picture: float = 0.0) -> None:
        self._peer, self._job = peer, job
        self._moved_per_picture = moved_per_picture
        self._next_epoch = 1  # epoch 0 is the one that is checked

    def run(self, epochs: int) -> Repeat:
        """Run some epochs and return what they cost.

        The clock starts before the first batch is asked for and stops when the last one is there (on CUDA: when the
        device has it). Each batch's last pixels are looked at, so that a loader cannot deliver promises.

        Raises:
            CheckError: an epoch was not of the right length.
        """
        cuda = _CudaClock() if self._job.device == "cuda" else None
        gaps: list[float] = []
        waited = 0.0
        cpu = cpu_seconds(os.getpid())
        if cuda:
            cuda.start()
        start = last = time.perf_counter()
        for _ in range(epochs):
            began = time.perf_counter()
            count = 0
            for batch in self._epoch():
                arrived = time.perf_counter()
                waited += arrived - last
                if cuda:
                    cuda.take(batch)
                else:
                    _touch(batch)
                count += int((batch.index >= 0).sum())
                now = time.perf_counter()
                gaps.append(now - last)
                last = now
            if count != self._job.samples:
                raise CheckError(f"an epoch had {count} samples, expected {self._job.samples}")
            self._slow_down(time.perf_counter() - began)
        device_seconds = cuda.stop() if cuda else 0.0
        seconds = time.perf_counter() - start
        pictures = epochs * self._job.samples
        return Repeat(
            pictures=pictures,
            seconds=seconds,
            cpu_seconds=cpu_seconds(os.getpid()) - cpu,
            batch_ms=(1e3 * percentile(gaps, 0.5), 1e3 * percentile(gaps, 0.95), 1e3 * max(gaps)),
            gpu=None
            if cuda is None
            else GpuCost(
                host_wait_seconds=waited,
                device_seconds=device_seconds,
                moved_bytes=cuda.moved_bytes + round(pictures * self._moved_per_picture),
            ),
        )

    def run_about(self, seconds: float, *, epochs: int = 1) -> tuple[Repeat, int]:
        """Run some epochs, or more of them until they take at least half as long as is wanted.

        Of a shorter window too much may have been ready before the clock started.

        Args:
            seconds: how long it should take.
            epochs: to begin with.

        Returns:
            what the last window cost, and how many epochs the next should have.

        Raises:
            CheckError: an epoch was not of the right length.
        """
        while True:
            window = self.run(epochs)
            epochs = next_window(epochs, window.seconds, wanted=seconds)
            if window.seconds >= seconds / 2:
                return window, epochs

    def skip(self, epochs: int) -> int:
        """Give some epochs to another user of the peer; return the number of the first."""
        first, self._next_epoch = self._next_epoch, self._next_epoch + epochs
        return first

    def _epoch(self) -> Iterator[Delivered]:
        number, self._next_epoch = self._next_epoch, self._next_epoch + 1
        return self._peer.epoch(number)

    def _slow_down(self, seconds: float) -> None:
        """Waste time after an epoch, so that the job's handicap is what is missing in speed."""
        if self._job.handicap:
            time.sleep(seconds * self._job.handicap / (1 - self._job.handicap))


def _touch(batch: Delivered) -> None:
    """Read the last value of both tensors."""
    for tensor in (batch.image, batch.mask):
        int(tensor.numpy()[(-1,) * tensor.ndim])  # not through torch, which takes longer than some loaders


class _CudaClock:
    """Device time by events; copies to the device what arrives on the host."""

    def __init__(self) -> None:
        import torch

        self._torch: Any = torch
        self.moved_bytes = 0

    def start(self) -> None:
        self._torch.cuda.synchronize()
        self._first = self._torch.cuda.Event(enable_timing=True)
        self._first.record()

    def take(self, batch: Delivered) -> None:
        """Put the batch on the device if it is not there: from pinned memory without waiting, else as it comes."""
        for tensor in (batch.image, batch.mask):
            if not tensor.is_cuda:
                tensor.to("cuda", non_blocking=True)
                self.moved_bytes += tensor.numel() * tensor.element_size()

    def stop(self) -> float:
        last = self._torch.cuda.Event(enable_timing=True)
        last.record()
        self._torch.cuda.synchronize()
        return float(self._first.elapsed_time(last)) / 1e3
