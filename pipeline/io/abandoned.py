"""Work that nobody waits for any more is given up between two samples, also in the middle of a large batch.

Otherwise a thread could still be in native code when the interpreter exits, and CPython (before 3.14) ends such a
thread in a way that C++ code does not survive: the process would be aborted.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator


class AbandonedError(BaseException):
    """The work of this thread is not wanted any more; like ``asyncio.CancelledError``, no error to be handled."""


class _Current(threading.local):
    abandoned: Callable[[], bool] | None = None


_current = _Current()


@contextlib.contextmanager
def work_for(abandoned: Callable[[], bool] | None) -> Iterator[None]:
    """Within, :func:`check_wanted` of this thread asks ``abandoned``."""
    before, _current.abandoned = _current.abandoned, abandoned
    try:
        yield
    finally:
        _current.abandoned = before


def current_work() -> Callable[[], bool] | None:
    """Return what this thread's work asks, for other threads that take a part of it."""
    return _current.abandoned


def check_wanted() -> None:
    """Raise ``AbandonedError`` if this thread's work was abandoned; called between samples."""
    if _current.abandoned is not None and _current.abandoned():
        raise AbandonedError
