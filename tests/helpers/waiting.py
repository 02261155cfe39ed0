"""Waiting for what other threads and processes do: as long as a busy machine may need, and no longer than it takes."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 120.0  # seconds; more than anything needs on a machine that is busy with other things


def wait_until(condition: Callable[[], object], *, seconds: float = PATIENCE) -> None:
    """Wait until a condition holds; fail if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} seconds"
        time.sleep(0.005)
