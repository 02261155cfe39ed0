"""One thread per process in which all requests to stores run, as coroutines: hundreds can be in flight at once.

obstore's runtime does not survive a fork: in a child of a process that has used it, a request would wait for ever. So
the first request remembers its process, and one from another process is an error that says what to do.
"""

import asyncio
import atexit
import os
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple

from shards.errors import PetsegError

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")
_NAME = "petseg-requests"
_lock = threading.Lock()
_loop: "_Loop | None" = None
_process: int | None = None  # that started the loop


class _Loop(asyncio.SelectorEventLoop):
    """Knows which threads, obstore's, are handing it a result: each gives up the GIL on its way, and needs it again."""

    def __init__(self) -> None:
        super().__init__()
        self.waking: set[int] = set()

    def call_soon_threadsafe(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Have something called in the loop's thread."""
        thread = threading.get_ident()
        self.waking.add(thread)
        try:
            return super().call_soon_threadsafe(callback, *args, context=context)
        finally:
            self.waking.discard(thread)


def request_loop() -> asyncio.AbstractEventLoop:
    """Return the process's loop, started by the first call; ``PetsegError`` in a fork of a process that has one."""
    global _loop, _process
    if _process not in (None, os.getpid()):
        raise PetsegError(
            "this process was forked from one that had used an object store, whose connections do not survive that; "
            'start processes with "spawn" or "forkserver" (multiprocessing_context of a DataLoader), or open the set '
            "in the child only"
        )
    with _lock:
        if _loop is None:
            _loop, _process = _Loop(), os.getpid()
            threading.Thread(target=_loop.run_forever, name=_NAME, daemon=True).start()
            atexit.register(_stop, _loop)
    return _loop


def submit(work: Coroutine[Any, Any, _T]) -> "Future[_T]":
    """Start a coroutine in the loop and return its result to come."""
    try:
        return asyncio.run_coroutine_threadsafe(work, request_loop())
    except BaseException:
        work.close()
        raise


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine in the loop and return its result; must not be called in the loop itself."""
    if threading.current_thread().name == _NAME:
        work.close()
        raise RuntimeError("a request waits for another one in the thread that makes them")
    result = submit(work)
    try:
        return result.result()
    except BaseException:
        result.cancel()
        raise


def _stop(loop: _Loop) -> None:
    """Cancel what is in flight at exit, so that no reply arrives in an interpreter that is shutting down.

    A thread of obstore's that asks for the GIL there ends the process with SIGABRT, so those on their way are awaited.
    """

    async def cancel() -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=1) if tasks else None

    if _process == os.getpid():
        try:
            asyncio.run_coroutine_threadsafe(cancel(), loop).result(2)
        except Exception:  # noqa: BLE001 - the process ends either way
            return
        loop.call_soon_threadsafe(loop.stop)
        give_up = time.monotonic() + 1
        while loop.waking and time.monotonic() < give_up:
            time.sleep(0.001)
