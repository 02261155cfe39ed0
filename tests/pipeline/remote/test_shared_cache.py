"""Several processes with one cache that has not room for all of them: each evicts what others have just fetched."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forked_programs import ForkedPopen
from remote_sets import OPTIONS, batch_bytes, batches
from store_servers import FaultProxy
from waiting import wait_until

from pipeline import Loader
from shards.store.atomic import file_sha256
from shards.store.remote.content_cache import ContentCache

PROGRAM = """
import hashlib, sys
from pipeline import Loader
from shards.store.remote import content_cache
content_cache.LEAST_BYTES = 1
address, cache, fetch, most, epochs, seed = sys.argv[1:]
with Loader(address, split="train", batch_size=1, size=32, device="cpu", augment="train", seed=int(seed), cache=cache,
            cache_bytes=int(most), fetch=fetch, prefetch=1, threads=1) as loader:
    for _ in range(int(epochs)):
        digest = hashlib.sha256()
        for batch in loader:
            for part in (batch.index, batch.image, batch.mask):
                digest.update(part.numpy().tobytes())
        print(digest.hexdigest())
    print(dict(loader.damaged), dict(loader.retries))
"""


@pytest.mark.faults
def test_processes_that_evict_each_others_files(
    server: FaultProxy, sets: dict[str, Path], uploaded: dict[str, str], tmp_path: Path,
    campaign: Callable[[int, int], int]
) -> None:  # fmt: skip
    """All get the batches of a local set, nothing is damaged, and files that are not the cache's stay."""
    epochs, seeds, fetches = campaign(2, 40), (1, 2)[: campaign(1, 2)], ("range", "shard")
    tars = sorted(path.stat().st_size for path in sets["source"].glob("train*.tar"))
    most = sum(tars) * 3 // 4
    assert tars[-1] < most
    foreign = tmp_path / "ab/notes.txt"
    foreign.parent.mkdir()
    foreign.write_bytes(b"mine")
    running = {}
    for seed in seeds:
        for fetch in fetches:
            command = [sys.executable, "-c", PROGRAM, uploaded["source"], tmp_path, fetch, most, epochs, seed]
            running[seed, fetch] = ForkedPopen(
                [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
    outputs = {key: process.communicate(timeout=60 * epochs) for key, process in running.items()}
    assert [process.returncode for process in running.values()] == [0] * len(running), outputs
    for seed in seeds:
        expected = local_digests(sets["source"], epochs, seed)
        for fetch in fetches:
            assert outputs[seed, fetch][0].splitlines() == [*expected, "{} {}"], (seed, fetch, outputs[seed, fetch][1])
    assert foreign.read_bytes() == b"mine"
    assert ContentCache(tmp_path, 0).used_bytes() <= most + len(running) * (tars[-1] + 8192)


def test_what_a_stopped_process_makes_others_wait_for_is_said_once(
    server: FaultProxy, sets: dict[str, Path], uploaded: dict[str, str], local: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    """As long as it may go on it is not replaced; when it ends, or goes on, the others do."""
    monkeypatch.setattr("shards.store.remote.remote_files._STALLED", 0.2)
    tars = sorted(sets["raw"].glob("train*.tar"))
    loaded: list[Any] = []

    def load() -> None:
        with Loader(uploaded["raw"], fetch="shard", cache=tmp_path, **OPTIONS) as loader:
            loaded.append(batches(loader, 1))

    with contextlib.ExitStack() as stopped:
        for tar in tars:
            assert stopped.enter_context(ContentCache(tmp_path, 0).fetching(file_sha256(tar))) is not None
        thread = threading.Thread(target=load, daemon=True)
        thread.start()
        wait_until(lambda: caplog.messages)
        thread.join(timeout=1)
        assert not loaded
    wait_until(lambda: loaded)
    assert loaded == [local("raw")]
    (message,) = caplog.messages
    assert message.startswith(f"waiting for {uploaded['raw']}/train-00000")
    assert message.endswith("if it is stopped (Ctrl-Z), continue or end it")


def local_digests(folder: Path, epochs: int, seed: int) -> list[str]:
    options: dict[str, Any] = {**OPTIONS, "batch_size": 1, "seed": seed}
    with Loader(folder, **options) as loader:
        return [hashlib.sha256(b"".join(map(b"".join, map(batch_bytes, loader)))).hexdigest() for _ in range(epochs)]
