"""Ctrl-C and SIGTERM as a wish, granted between two steps; and the errors that end a run early."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from shards.errors import PetsegError

# A second signal so soon is the first one's echo (a shell and its job were both signalled), not another wish.
_ECHO_SECONDS = 0.5


class InterruptedRunError(PetsegError):
    """The run was asked to stop and has written its checkpoint; exits as a shell reports the signal."""

    def __init__(self, message: str, *, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class DivergedError(PetsegError):
    """The loss, or the gradient, has become NaN or enormous."""


class StopRequest:
    """Whether, and by which signal, the user asked to stop.

    Args:
        patient: never interrupt at once. Under torchrun one Ctrl-C arrives twice, from the terminal and from torchrun,
            which waits half a minute before it kills.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.signal: int | None = None
        self._patient = patient
        self._asked = 0.0

    def __bool__(self) -> bool:
        return self.signal is not None

    def _ask(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._asked = number, now
        elif not self._patient and now - self._asked > _ECHO_SECONDS:
            raise KeyboardInterrupt  # asked twice: stop at once, from the last checkpoint


@contextlib.contextmanager
def catch_stop(*, patient: bool = False) -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM within the block into a request; a second one interrupts at once.

    ``patient``: see :class:`StopRequest`.
    """
    request = StopRequest(patient=patient)
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
