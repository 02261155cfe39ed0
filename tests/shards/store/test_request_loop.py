"""The thread in which requests run, at the exit of the process."""

from __future__ import annotations

import os
import threading
import time

import pytest

from shards.store.cloud import request_loop


def test_exit_waits_for_threads_that_hand_over_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that asks for the GIL while the interpreter shuts down ends the process with SIGABRT."""
    monkeypatch.setattr(request_loop, "_process", os.getpid())
    loop = request_loop._Loop()
    runner = threading.Thread(target=loop.run_forever)
    runner.start()
    wake, handing, done = loop._write_to_self, threading.Event(), threading.Event()

    def slow() -> None:  # as one that has to wait for the GIL after it has woken the loop
        wake()
        if threading.current_thread() is worker:
            handing.set()
            time.sleep(0.3)
            done.set()

    monkeypatch.setattr(loop, "_write_to_self", slow)
    worker = threading.Thread(target=lambda: loop.call_soon_threadsafe(int))
    worker.start()
    assert handing.wait(10)
    request_loop._stop(loop)
    assert done.is_set()
    worker.join(10)
    runner.join(10)
    assert not loop.waking
    loop.close()
