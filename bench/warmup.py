"""When a loader is warm: its speed no longer rises. Pure arithmetic, no clock."""

from __future__ import annotations

from collections.abc import Sequence

WINDOW_SECONDS = 0.3  # a window is one epoch, or as many as take this long
HALF = 2  # windows that are compared with as many before them
GAIN = 1.05  # steady: not more than 5 % faster than before
GROWTH = 4  # a window has at most so many times the epochs of the one before
MAX_SECONDS = 12.0  # no more than that is spent on waiting for it


def is_steady(rates: Sequence[float]) -> bool:
    """Return whether the last two windows are at most 5 % faster than the two before them.

    A trend is looked for, not quiet: on a machine with neighbours the speed never stops to vary, but it stops to rise.

    Args:
        rates: pictures per second of each window since the start.
    """
    if len(rates) < 2 * HALF:
        return False
    late, early = rates[-HALF:], rates[-2 * HALF : -HALF]
    return sum(late) <= GAIN * sum(early)


def next_window(epochs: int, seconds: float, *, wanted: float) -> int:
    """Return of how many epochs the next window should be, at least 1, so that it takes as long as is wanted.

    It grows step by step: a window of which most was ready before it began says nothing about the speed, and one that
    is sized by it could take minutes.

    Args:
        epochs: of the last window.
        seconds: that it took.
        wanted: seconds.
    """
    most = GROWTH * epochs
    return most if seconds <= 0 else max(1, min(most, round(epochs * wanted / seconds)))
