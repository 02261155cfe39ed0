"""Ctrl-C and SIGTERM as a wish, granted between two steps; and the errors that end a run early."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from shards.errors import PetsegError


class InterruptedRunError(PetsegError):
    """The run was asked to stop and has written its checkpoint; exits as a shell reports the signal."""

    def __init__(self, message: str, *, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class DivergedError(PetsegError):
    """The loss, or the gradient, has become NaN or enormous."""


class StopRequest:
    """Whether, and by which signal, the user asked to stop."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt  # asked twice: stop at once, from the last checkpoint
        self.signal = number


@contextlib.contextmanager
def catch_stop() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM within the block into a request; a second one interrupts at once."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # Python delivers signals to the main thread only
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, request._ask) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
