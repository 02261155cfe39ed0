"""The clock around whatever takes batches, on the CPU and on CUDA; and how long to warm up."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from bench.core.machine import cpu_seconds
from bench.results.records import GpuCost, Repeat

GAIN = 1.05  # steady: not more than 5 % faster than the window before
GROWTH = 4  # a window has at most so many times the epochs of the one before

B = TypeVar("B")


def time_batches(batches: Iterable[B], use: Callable[[B], int], *, cuda: bool, moved: Callable[[int], float]) -> Repeat:
    """Use each batch, and return what that cost; ``use`` returns the number of its images, padding not counted, and
    ``moved`` how many bytes of so many images have crossed to the GPU.

    The clock starts before the first batch is requested and stops when the last one was used (on CUDA: by the device).
    """
    events: list[Any] = []
    if cuda:
        import torch

        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        events[0].record()
    gaps, images, waited, cpu, gpu = list[float](), 0, 0.0, cpu_seconds(os.getpid()), None
    start = last = time.perf_counter()
    for batch in batches:
        waited += time.perf_counter() - last
        images += use(batch)
        now = time.perf_counter()
        gaps.append(now - last)
        last = now
    if cuda:
        events[1].record()
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    if cuda:
        gpu = GpuCost(device_seconds=events[0].elapsed_time(events[1]) / 1e3, moved_bytes=round(moved(images)))
    gap_ms = 1e3 * np.quantile(gaps, (0.5, 0.95, 1.0), method="inverted_cdf")
    return Repeat(
        images=images, seconds=seconds, cpu_seconds=cpu_seconds(os.getpid()) - cpu, wait_seconds=waited, gpu=gpu,
        batch_ms=tuple(gap_ms.tolist()),
    )  # fmt: skip


def is_steady(rates: Sequence[float]) -> bool:
    """Return whether the last window's images/s are at most 5 % more than those of the one before.

    A trend is looked for: on a machine with neighbours the speed never stops to vary, but it stops to rise.
    """
    return len(rates) >= 2 and rates[-1] <= GAIN * rates[-2]


def warm_up(window: Callable[[], float], *, most_seconds: float) -> tuple[int, bool]:
    """Run windows, which return images/s, until they are steady; return their number, and whether they are."""
    started, rates = time.perf_counter(), list[float]()
    while not is_steady(rates) and (not rates or time.perf_counter() - started < most_seconds):
        rates.append(window())
    return len(rates), is_steady(rates)


def next_window(epochs: int, seconds: float, *, wanted: float) -> int:
    """Return of how many epochs the next window should be, at least 1, so that it takes ``wanted`` seconds.

    ``epochs`` and ``seconds`` are of the last one. It grows step by step: a window of which most was ready before it
    began says nothing about the speed, and one that is sized by it could take minutes.
    """
    most = GROWTH * epochs
    return most if seconds <= 0 else max(1, min(most, round(epochs * wanted / seconds)))
