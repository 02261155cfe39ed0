"""The clock around a loader: complete epochs, each batch counted, on the CPU and on CUDA; and how long to warm up."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from bench.core.output_check import CheckError
from bench.core.resources import cpu_seconds
from bench.job import Job
from bench.peers.base import Delivered, Peer
from bench.results.records import GpuCost, Repeat
from bench.results.statistics import percentile

WINDOW_SECONDS = 0.3  # a window of the warm-up is one epoch, or as many as take this long
HALF = 2  # windows that are compared with as many before them
GAIN = 1.05  # steady: not more than 5 % faster than before
GROWTH = 4  # a window has at most so many times the epochs of the one before
MAX_WARMUP_SECONDS = 12.0


class Stopwatch:
    """Times complete epochs of one peer."""

    def __init__(self, peer: Peer, job: Job) -> None:
        self._peer, self._job = peer, job
        self._next_epoch = 1  # epoch 0 is the one that is checked

    def run(self, epochs: int, *, consumer_rate: float = 0.0) -> Repeat:
        """Run some epochs and return what they cost.

        The clock starts before the first batch is requested and stops when the last one is there (on CUDA: when the
        device has it). Each batch's last pixels are read, so that a loader cannot deliver promises.

        Args:
            epochs: how many.
            consumer_rate: sleep after each batch as long as a device of so many images/s would be busy with it. That
                takes no processor time, as a network on a GPU hardly does. 0: no consumer.

        Raises:
            CheckError: an epoch was not of the right length.
        """
        cuda = _CudaClock() if self._job.device == "cuda" else None
        gaps: list[float] = []
        waited = 0.0
        cpu = cpu_seconds(os.getpid())
        start = last = time.perf_counter()
        for _ in range(epochs):
            began, count = time.perf_counter(), 0
            number, self._next_epoch = self._next_epoch, self._next_epoch + 1
            for batch in self._peer.epoch(number):
                waited += time.perf_counter() - last
                if cuda:
                    cuda.take(batch)
                else:
                    _touch(batch)
                valid = int((batch.index >= 0).sum())
                count += valid
                if consumer_rate:
                    time.sleep(valid / consumer_rate)
                now = time.perf_counter()
                gaps.append(now - last)
                last = now
            if count != self._job.samples:
                raise CheckError(f"an epoch had {count} samples, expected {self._job.samples}")
            if self._job.handicap:  # what is missing in speed
                time.sleep((time.perf_counter() - began) * self._job.handicap / (1 - self._job.handicap))
        device_seconds = cuda.stop() if cuda else 0.0
        seconds, images = time.perf_counter() - start, epochs * self._job.samples
        gpu = None
        if cuda:
            moved = cuda.moved_bytes + round(images * self._peer.moved_per_image())
            gpu = GpuCost(host_wait_seconds=waited, device_seconds=device_seconds, moved_bytes=moved)
        return Repeat(
            images=images,
            seconds=seconds,
            cpu_seconds=cpu_seconds(os.getpid()) - cpu,
            batch_ms=(1e3 * percentile(gaps, 0.5), 1e3 * percentile(gaps, 0.95), 1e3 * max(gaps)),
            wait_seconds=waited,
            gpu=gpu,
        )

    def run_about(self, seconds: float, *, epochs: int = 1) -> tuple[Repeat, int]:
        """Run some epochs, or more of them until they take at least half as long as is wanted; return what the last
        window cost, and how many epochs the next should have.

        Of a shorter window too much may have been ready before the clock started.

        Raises:
            CheckError: an epoch was not of the right length.
        """
        while True:
            window = self.run(epochs)
            epochs = next_window(epochs, window.seconds, wanted=seconds)
            if window.seconds >= seconds / 2:
                return window, epochs


def is_steady(rates: Sequence[float]) -> bool:
    """Return whether the last two windows' images/s are at most 5 % more than those of the two before them.

    A trend is looked for: on a machine with neighbours the speed never stops to vary, but it stops to rise.
    """
    return len(rates) >= 2 * HALF and sum(rates[-HALF:]) <= GAIN * sum(rates[-2 * HALF : -HALF])


def warm_up(window: Callable[[], float]) -> dict[str, Any]:
    """Run windows, which return images/s, until they are steady; return the last rate, and how long it took."""
    started, rates = time.perf_counter(), list[float]()
    while not is_steady(rates) and time.perf_counter() - started < MAX_WARMUP_SECONDS:
        rates.append(window())
    return {"rate": rates[-1], "steady": is_steady(rates), "seconds": time.perf_counter() - started}


def next_window(epochs: int, seconds: float, *, wanted: float) -> int:
    """Return of how many epochs the next window should be, at least 1, so that it takes ``wanted`` seconds.

    ``epochs`` and ``seconds`` are of the last one. It grows step by step: a window of which most was ready before it
    began says nothing about the speed, and one that is sized by it could take minutes.
    """
    most = GROWTH * epochs
    return most if seconds <= 0 else max(1, min(most, round(epochs * wanted / seconds)))


def climb(counts: Sequence[int], trial: Callable[[int], float]) -> dict[int, float]:
    """Try the middle number and larger ones as long as they gain; where none does, smaller ones as long as they gain.

    A number beyond one that lost is not tried: more workers than too many are too many.

    Args:
        counts: numbers of workers, ascending; may be empty.
        trial: returns the images per second with so many.

    Returns:
        the images per second of each number that was tried, in the order of the trials.
    """
    if not counts:
        return {}
    middle = len(counts) // 2
    tried = {counts[middle]: trial(counts[middle])}
    for way in (counts[middle + 1 :], counts[middle - 1 :: -1] if middle else ()):
        for count in way:
            best = max(tried.values())
            tried[count] = trial(count)
            if tried[count] <= best:
                break
        if max(tried, key=lambda count: tried[count]) != counts[middle]:
            break
    return tried


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
        torch.cuda.synchronize()
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
