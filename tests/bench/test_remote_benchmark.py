"""The benchmark of sets in object stores, with petseg's loader on a tiny set."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import psutil
import pytest
from class_sets import SIZES, make_class_set
from waiting import wait_until

from bench import remote_benchmark
from bench.core.slow_store import SlowStore
from bench.settings import RemoteSettings

pytest.importorskip("obstore")
pytest.importorskip("boto3")

SERVING = """
import contextlib, os, time
from bench.core.slow_store import slow_store

with contextlib.suppress(KeyboardInterrupt), slow_store(0.1):
    children = open(f"/proc/self/task/{os.getpid()}/children").read()
    print(children, flush=True)
    time.sleep(60)
"""


def test_rates_of_a_local_set_and_of_the_same_in_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, shards = make_class_set(tmp_path, classes=3)
    uploaded: list[tuple[set[str], str]] = []
    upload = SlowStore.upload

    def noted(self: SlowStore, files: list[Path], folder: str) -> None:
        uploaded.append(({path.name for path in files}, folder))
        upload(self, files, folder)

    monkeypatch.setattr(SlowStore, "upload", noted)
    monkeypatch.setattr(remote_benchmark, "SUBJECTS", ("local", "petseg"))
    monkeypatch.setattr(remote_benchmark, "IMPORTS", ())
    settings = RemoteSettings(shards=shards, size=16, batch_size=2, delay=0.1, epochs=2, repeats=1, time_limit=60.0)
    found = remote_benchmark.run_remote_benchmark(settings)
    rates = found["images_per_second"]
    assert found["skipped"] == {}
    assert uploaded == [({path.name for path in shards.iterdir()}, "petseg")]
    assert rates["petseg"]["first"] < len(SIZES) / 0.3, "three replies, each 0.1 s late, come before the first image"
    assert found["later_epochs_over_local"] == rates["petseg"]["later"] / rates["local"]["later"]
    assert found["first_epoch_over_best_other"] is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_server_ends_with_the_benchmark_and_says_nothing(number: signal.Signals) -> None:
    """Ctrl-C reaches a whole group of processes; what is killed closes nothing."""
    with subprocess.Popen([sys.executable, "-c", SERVING], stdout=PIPE, stderr=PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        server = psutil.Process(int(process.stdout.readline()))
        {signal.SIGINT: os.killpg, signal.SIGKILL: os.kill}[number](process.pid, number)
        wait_until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)
        assert process.communicate(timeout=60) == (b"", b"")
