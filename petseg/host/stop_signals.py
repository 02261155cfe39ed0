"""Ctrl-C and SIGTERM as a request to stop between two steps, and the errors that end a run early."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from shards.errors import PetsegError

# A second signal within this time repeats the first one (a shell signalled both the process group and its job).
_REPEAT_SECONDS = 0.5


class InterruptedRunError(PetsegError):
    """The run was stopped by a signal and has written its checkpoint; the exit code is the shell's for that signal."""

    def __init__(self, message: str, *, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class DivergedError(PetsegError):
    """The loss or the gradient has become non-finite or far too large."""


class StopRequest:
    """True once the user has asked to stop; ``signal`` is the number of the signal, or None.

    ``ignore_repeats``: never interrupt at once. Under torchrun one Ctrl-C arrives twice, from the terminal and from
    torchrun, which kills only after half a minute.
    """

    def __init__(self, *, ignore_repeats: bool = False) -> None:
        self.signal: int | None = None
        self._ignore_repeats = ignore_repeats
        self._received = 0.0

    def __bool__(self) -> bool:
        return self.signal is not None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._received = number, now
        elif not self._ignore_repeats and now - self._received > _REPEAT_SECONDS:
            raise KeyboardInterrupt  # the second request: stop at once, the last checkpoint stays


@contextlib.contextmanager
def catch_stop_signals(*, ignore_repeats: bool = False) -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM within the block into a :class:`StopRequest`; a second interrupts at once."""
    request = StopRequest(ignore_repeats=ignore_repeats)
    if threading.current_thread() is not threading.main_thread():
        yield request  # Python delivers signals to the main thread only
        return
    previous = {number: signal.signal(number, request._receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
