"""Output that may be closed while the program goes on: ``petseg-train | head``, a pipe whose reader was ended."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO


class LastingOutput:
    """A text stream that drops what is written to it once that fails, because a reader is gone or a disk is full.

    ``on_failure`` is called once, with the reason. Everything but ``write`` and ``flush`` is the stream's own.
    """

    def __init__(self, stream: TextIO, *, on_failure: Callable[[str], None] = lambda reason: None) -> None:
        self._stream, self._on_failure, self._failed = stream, on_failure, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text, or drop it; return its length."""
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush the stream, unless it has failed."""
        self._attempt(self._stream.flush)

    def _attempt(self, act: Callable[[], object]) -> None:
        if self._failed:
            return
        try:
            act()
        except OSError as error:
            self._failed = True
            with contextlib.suppress(OSError, ValueError):  # what the stream still holds goes nowhere, also at exit
                descriptor = os.open(os.devnull, os.O_WRONLY)
                os.dup2(descriptor, self._stream.fileno())
                os.close(descriptor)
            self._on_failure(error.strerror or type(error).__name__)


@contextlib.contextmanager
def lasting_output(notice: str) -> Iterator[None]:
    """Within the block, stdout and stderr that can no longer be written to are dropped.

    If that is stdout, ``notice`` is written to stderr.
    """
    out, err = sys.stdout, sys.stderr
    sys.stderr = LastingOutput(err)

    def say(reason: str) -> None:
        sys.stderr.write(f"stdout: {reason}; {notice}\n")
        sys.stderr.flush()

    sys.stdout = LastingOutput(out, on_failure=say)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = out, err
