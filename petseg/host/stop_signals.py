"""Signals that ask to stop: as a request between two steps, or delayed; errors that end a run early."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType

from shards.console import REPEAT_SECONDS, signals_handled
from shards.errors import PetsegError, UsageError, option

CHECKPOINTED = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, try again later
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
_CHOICES = ("HUP", "QUIT", "USR1", "USR2", "XCPU", "CONT", "URG", "ALRM", "INT", "TERM")


class InterruptedRunError(PetsegError):
    """The run was stopped by a signal and has written its checkpoint.

    The exit code is the shell's 130 after Ctrl-C, and 75 after any other signal: 128 + N would not say whether a
    checkpoint was written, because a process that is killed by signal N has that, too.
    """

    def __init__(self, message: str, *, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number if number == signal.SIGINT else CHECKPOINTED


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
        elif not self._ignore_repeats and now - self._received > REPEAT_SECONDS:
            raise KeyboardInterrupt  # the second request: stop at once, the last checkpoint stays


def parse_signals(names: str) -> tuple[signal.Signals, ...]:
    """Return the signals of a list such as ``USR2,HUP`` (``--stop-signal``); ``UsageError`` for any other name."""
    found = []
    for name in filter(None, (part.strip().upper().removeprefix("SIG") for part in names.split(","))):
        if name not in _CHOICES or not hasattr(signal, f"SIG{name}"):
            raise UsageError(f"{option('stop_signal', names)}: {name} is not one of {', '.join(_CHOICES)}")
        found.append(signal.Signals[f"SIG{name}"])
    return tuple(found)


@contextlib.contextmanager
def catch_stop_signals(
    *, further: Sequence[signal.Signals] = (), ignore_repeats: bool = False
) -> Iterator[StopRequest]:
    """Turn the first SIGINT, SIGTERM, SIGUSR1, SIGHUP or ``further`` signal in the block into a :class:`StopRequest`.

    A second one interrupts at once. Where SIGHUP is ignored (``nohup``) it stays so, unless it is among ``further``.
    """
    request = StopRequest(ignore_repeats=ignore_repeats)
    if threading.current_thread() is not threading.main_thread():
        yield request  # Python delivers signals to the main thread only
        return
    numbers = dict.fromkeys((*STOPPING, *further))
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN and signal.SIGHUP not in further:
        del numbers[signal.SIGHUP]
    previous = {number: signal.signal(number, request._receive) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def delay_stop_signals() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP that arrive within the block take effect at its end."""
    received: list[int] = []
    try:
        with signals_handled(
            lambda number, frame: received.append(number), (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        ):
            yield
    finally:
        for number in received[:1]:
            signal.raise_signal(number)
