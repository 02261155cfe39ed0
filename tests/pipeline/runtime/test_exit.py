"""The interpreter exits while a batch is being made."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from waiting import PATIENCE

PROGRAM = """
    import atexit, sys, threading, time
    def report():
        print([each.name for each in threading.enumerate() if each.name.startswith("petseg")], flush=True)
    atexit.register(report)  # runs after what is registered later
    from pipeline import Loader
    from pipeline.cpu import sample_decoders
    from pipeline.io import members
    from pipeline.io.tar_files import TarFiles

    begun = threading.Event()
    def slowed(function):
        def wait(*args, **options):
            begun.set()
            time.sleep(0.1)
            return function(*args, **options)
        return wait

    members.thread_ring = lambda: None  # samples are read one by one
    shards, slow, *shared = sys.argv[1:]
    if slow == "read":
        TarFiles.read = slowed(TarFiles.read)
    else:
        sample_decoders.decode_jpeg = slowed(sample_decoders.decode_jpeg)
    options = {"prefetch": 1, "threads": 3} if shared else {}
    loader = Loader(shards, batch_size=3000, device="cpu", engine="torch", processes=0, **options)
    iterator = iter(loader)
    begun.wait()
"""


@pytest.mark.parametrize("shared", [(), ("shared",)])
@pytest.mark.parametrize(
    ("storage", "slow"), [("source", "decode"), ("jpeg", "decode"), ("source", "read"), ("raw", "read")]
)
def test_a_large_batch_is_given_up_at_exit(
    sets: dict[str, Path], storage: str, slow: str, shared: tuple[str, ...]
) -> None:
    """No thread is left when the interpreter begins to exit: one in native code might abort the process then.

    A sample takes 0.1 seconds here, a batch minutes. ``shared``: several threads make one.
    """
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(sets[storage]), slow, *shared]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "[]\n", "")
