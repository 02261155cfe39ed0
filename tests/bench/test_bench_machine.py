"""What looks at the machine: warm-up, page cache, process tree, a peer's process that misbehaves."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bench import cache
from bench.check import CheckError
from bench.driver import PeerProcess
from bench.environment import Started
from bench.job import Job
from bench.process_tree import cpu_seconds, memory_bytes, watch_memory
from bench.warmup import GROWTH, is_steady, next_window


def test_steady_means_no_longer_rising() -> None:
    assert not is_steady([])
    assert not is_steady([100, 100, 100])
    assert is_steady([100, 100, 100, 100])
    assert is_steady([90, 100, 98, 99])
    assert is_steady([100, 110, 60, 70])  # slower is not warming up
    assert not is_steady([50, 60, 90, 100])
    assert is_steady([10, 50, 100, 101, 102, 99])


def test_a_window_that_was_ready_before_it_began_does_not_size_the_next() -> None:
    assert next_window(1, 1e-6, wanted=0.3) == next_window(1, 0.0, wanted=0.3) == GROWTH
    assert next_window(8, 0.3, wanted=0.3) == 8
    assert next_window(8, 0.1, wanted=0.3) == 24
    assert next_window(8, 40.0, wanted=0.3) == 1


@given(st.floats(1e-7, 100), st.floats(0.01, 10))
def test_windows_reach_the_wanted_length(epoch_seconds: float, wanted: float) -> None:
    epochs = 1
    for _ in range(20):
        epochs = next_window(epochs, epochs * epoch_seconds, wanted=wanted)
    assert epochs == 1 or wanted / 2 < epochs * epoch_seconds < 2 * wanted


def test_page_cache_is_dropped_and_seen(tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(b"x" * 5_000_000)
    if cache.resident([path]) != 1.0:
        pytest.skip("this file system does not tell what is in the page cache")
    cache.drop([path])
    left = cache.resident([path])
    assert left is not None
    assert left < 0.1
    path.read_bytes()
    assert cache.resident([path]) == 1.0
    (tmp_path / "empty").touch()
    assert cache.resident([tmp_path / "empty"]) is None


CHILD = "import time; block = bytearray(80_000_000); block[::4096] = b'x' * len(block[::4096]); print(flush=True); "


def test_memory_and_time_of_descendants_are_counted() -> None:
    inner = f"{CHILD} time.sleep(60)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    with subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            with watch_memory(process.pid) as peak:
                time.sleep(0.4)
            assert peak.bytes > 80_000_000
            assert memory_bytes(process.pid) > 80_000_000
            assert cpu_seconds(process.pid) > 0
        finally:
            import psutil

            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
    assert memory_bytes(process.pid) == 0


def test_limits_are_measured_on_pictures_of_any_size(made_up_set: Path) -> None:
    from bench.limits import copy_probe, make_probes, run_probe
    from bench.workspace import open_workspace

    with open_workspace(
        made_up_set, split="val", storages=("jpeg",), size=48, source=None, work=None
    ) as workspace:  # "source" is the set's own storage
        probes = [copy_probe(size=48, samples=8)]
        for stored in workspace.stored.values():
            probes += make_probes(stored, split="val", size=640, seed=0)  # larger than any picture
        assert [probe.name for probe in probes] == ["copy", "read", "decode", "decode, scaled", "read", "decode"]
        for probe in probes:
            assert run_probe(probe, cores=2, seconds=0.02) > 1
        folder = workspace.folder
        assert workspace.data.samples == len(list((folder / "jpeg" / "pictures" / "images").iterdir()))
    assert not folder.exists()


def test_nothing_keeps_a_cold_loader_warm(made_up_set: Path) -> None:
    """No tar stays mapped, so that its pages can be dropped; and what our loader has read ahead is dropped as well."""
    from bench.limits import make_probes
    from bench.peers.petseg_loader import PetsegLoader
    from bench.workspace import open_workspace

    with open_workspace(made_up_set, split="val", storages=("jpeg",), size=48, source=None, work=None) as workspace:
        for stored in workspace.stored.values():
            make_probes(stored, split="val", size=48, seed=0)
        maps = Path("/proc/self/maps")
        if maps.exists():
            assert [line for line in maps.read_text().splitlines() if str(workspace.folder) in line] == []
        shards = str(workspace.stored["jpeg"].shards)
        samples = workspace.data.samples
        wanted = replace(
            job("petseg"), shards=shards, split="val", storage="jpeg", samples=samples, size=48, batch_size=3
        )
        ours = PetsegLoader(wanted)
        ours.open(0)
        try:
            assert sum(int((batch.index >= 0).sum()) for batch in ours.epoch(0)) == samples
            assert ours._loader._stream is not None
            ours.rest()
            assert ours._loader._stream is None
            assert sum(int((batch.index >= 0).sum()) for batch in ours.epoch(1)) == samples
        finally:
            ours.close()


def job(peer: str) -> Job:
    return Job(
        peer=peer, storage="source", shards="/nowhere", pictures="", keys="", work="", split="train", samples=1, size=8,
        batch_size=1, augment=False, seed=0, workers=0, cores=1,
    )  # fmt: skip


def test_a_peer_that_cannot_start_says_why() -> None:
    process = PeerProcess(job("unheard-of"))
    with pytest.raises(CheckError, match="no peer 'unheard-of'"), process:
        pass
    process.close()


def test_a_peer_that_dies_or_hangs_is_told_and_ended() -> None:
    with PeerProcess(job("petseg")) as process:
        with pytest.raises(CheckError, match="/nowhere"):
            process.ask("prepare")
        process._process.kill()
        with pytest.raises(CheckError, match="ended"):
            process.ask("prepare")
    with PeerProcess(job("petseg")) as process:
        process._patience = 0.0
        with pytest.raises(CheckError, match="no answer within 0 s"):
            process.ask("prepare")


def test_the_environment_is_told() -> None:
    environment = Started().finish()
    assert environment.cores >= 1
    assert environment.memory_bytes > 1 << 28
    assert {"python", "numpy", "torch"} <= environment.versions.keys()
    assert environment.cpu
