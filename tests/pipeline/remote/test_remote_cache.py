"""The cache of a loader: damaged, too small, on a full disk, used by processes that are killed."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked_programs
import pytest
from forked_programs import ForkedPopen
from remote_sets import OPTIONS, batch_bytes, batches
from store_servers import FaultProxy, range_server

from pipeline import Loader
from shards.errors import FormatError, PetsegError, UsageError
from shards.format.dataset import ShardSet
from shards.store.remote.cache_place import open_cache
from shards.store.remote.cached_file import remove_unused
from shards.store.remote.content_cache import ContentCache


def files_in(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()]


@pytest.mark.parametrize("fetch", ["range", "shard"])
def test_damage_in_the_cache_is_repaired(
    server: FaultProxy, uploaded: dict[str, str], local: Any, tmp_path: Path, fetch: Any
) -> None:
    for damage in ("flip", "truncate", "remove"):
        with Loader(uploaded["source"], fetch=fetch, cache=tmp_path, **OPTIONS) as loader:
            assert batches(loader) == local("source")
        tars = [path for path in files_in(tmp_path) if path.stat().st_size > 20_000]
        assert tars
        for path in tars:
            content = bytearray(path.read_bytes())
            content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
            path.write_bytes(content if damage == "flip" else content[:1000])
            if damage == "remove":
                path.unlink()
    with Loader(uploaded["source"], fetch=fetch, cache=tmp_path, **OPTIONS) as loader:
        assert batches(loader) == local("source")
        assert not loader.damaged


@pytest.mark.parametrize("table", ["table", "shard_table"])
def test_a_large_table_that_was_damaged_in_the_cache(
    server: FaultProxy,
    uploaded: dict[str, str],
    local: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    table: str,
) -> None:
    """It is not compared with its SHA-256 each time; the set is not to be built again, but the table fetched."""
    monkeypatch.setattr("shards.store.remote.remote_files.COMPARED", 0)
    with Loader(uploaded["source"], cache=tmp_path, **OPTIONS) as loader:
        batches(loader)
    entry = getattr(ShardSet.open(uploaded["source"], cache=tmp_path).split("train").entry, table)
    path = ContentCache(tmp_path, 1 << 30).path(entry.sha256)
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    damaged = pytest.raises(FormatError, match=rf"{entry.file} was damaged in the cache .* start again")
    with damaged as caught, Loader(uploaded["source"], cache=tmp_path, **OPTIONS) as loader:
        batches(loader)
    assert "build" not in str(caught.value)
    with Loader(uploaded["source"], cache=tmp_path, **OPTIONS) as loader:
        assert batches(loader) == local("source")


def test_a_tar_that_was_found_damaged_meanwhile_is_not_kept_open(
    server: FaultProxy, uploaded: dict[str, str], tmp_path: Path
) -> None:
    """One thread opens a tar of the cache, another one finds it damaged and has it fetched again."""
    tars = ShardSet.open(uploaded["source"], fetch="shard", cache=tmp_path).split("train").remote
    assert tars is not None
    tars.hold([0], [0])
    tars.close()
    damaged = tars._find(0)
    tars.forget([0], [0])
    tars._keep({0: damaged})
    fresh = tars.hold([0], [0])[0]
    assert fresh is not damaged
    assert fresh is tars.hold([0], [0])[0]  # which is kept


def test_a_small_cache_is_enough(server: FaultProxy, sets: dict[str, Path], uploaded: dict[str, str], local: Any,
                                 tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """What is not in use makes room for what is; other people's files are left alone."""
    monkeypatch.setattr("shards.store.remote.content_cache.LEAST_BYTES", 1)
    largest = max(path.stat().st_size for path in sets["source"].glob("*.tar"))
    total = sum(path.stat().st_size for path in sets["source"].glob("train*"))
    bound = total * 3 // 4
    assert largest < bound
    options = {**OPTIONS, "batch_size": 1, "prefetch": 1, "threads": 1}
    foreign = tmp_path / "ab/notes.txt"
    foreign.parent.mkdir()
    foreign.write_bytes(bytes(bound))
    with Loader(uploaded["source"], fetch="range", cache=tmp_path, cache_bytes=bound, **options) as loader:
        assert batches(loader, 3) == local("source", 3, batch_size=1)
        assert ContentCache(tmp_path, 0).used_bytes() <= bound + largest
    assert foreign.exists()
    assert server.plan.requests["GET"] > 40


@pytest.mark.parametrize(
    ("fetch", "options"), [("shard", {}), ("range", {}), ("auto", {"engine": "dali"}), ("auto", {"processes": 1})]
)
def test_a_cache_that_holds_the_tables_alone(
    server: FaultProxy, sets: dict[str, Path], uploaded: dict[str, str], local: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fetch: Any, options: dict[str, Any]
) -> None:  # fmt: skip
    """Samples go through memory, which is said once."""
    monkeypatch.setattr("shards.store.remote.content_cache.LEAST_BYTES", 1)
    bound = 9_000
    assert bound < min(path.stat().st_size for path in sets["source"].glob("train*.tar"))
    address = uploaded["source"]
    with Loader(address, fetch=fetch, cache=tmp_path, cache_bytes=bound, **OPTIONS, **options) as loader:
        assert batches(loader, 2) == local("source", 2, **options)
    said = [record.message for record in caplog.records if "give more with cache_bytes" in record.message]
    assert len(said) == 1
    assert said[0].endswith("samples that do not fit are fetched each time")
    assert ContentCache(tmp_path, 0).used_bytes() <= 2 * bound, "whole blocks of the disk"


def test_tars_that_are_on_their_way_count(
    server: FaultProxy, sets: dict[str, Path], uploaded: dict[str, str], local: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """All tars are requested at once, and none is there yet when the next one is."""
    monkeypatch.setattr("shards.store.remote.content_cache.LEAST_BYTES", 1)
    sizes = sorted(path.stat().st_size for path in sets["source"].glob("train*.tar"))
    bound = sum(sizes[-2:]) + 30_000
    assert bound < sum(sizes)
    with Loader(uploaded["source"], fetch="shard", cache=tmp_path, cache_bytes=bound, **OPTIONS) as loader:
        assert batches(loader, 2) == local("source", 2)
    assert ContentCache(tmp_path, 0).used_bytes() <= bound + 20_000, "whole blocks of the disk"


def test_tables_that_do_not_fit(
    server: FaultProxy, uploaded: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shards.store.remote.content_cache.LEAST_BYTES", 1)
    with pytest.raises(
        PetsegError, match=r"samples.npy has \d+ bytes, more than the 1000 that the cache .* may hold: give more with"
    ):
        Loader(uploaded["source"], cache=tmp_path, cache_bytes=1000, **OPTIONS)


def blocks(cache: Path) -> int:
    """The space that is taken, without what files that are being fetched will take."""
    return sum(path.stat().st_blocks * 512 for path in files_in(cache) if path.exists())


def pwrite_on_a_disk_of(most: Callable[[], int], cache: Path) -> Callable[..., int]:
    """What writes as on a disk that is full when the cache has so many bytes."""
    real = os.pwrite

    def pwrite(descriptor: int, data: Any, offset: int) -> int:
        there = Path(f"/proc/self/fd/{descriptor}").readlink().is_relative_to(cache)  # not in memory
        if there and len(data) > 1 and blocks(cache) + len(data) > most():
            raise OSError(28, "No space left on device")
        return real(descriptor, data, offset)

    return pwrite


@pytest.mark.parametrize("fetch", ["range", "shard"])
def test_a_full_disk_ends_nothing(
    server: FaultProxy, uploaded: dict[str, str], local: Any, tmp_path: Path, fetch: Any,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    """Samples go through memory, which is said once, until there is space again."""
    with Loader(uploaded["source"], fetch=fetch, cache=tmp_path, **OPTIONS) as loader:
        assert len(loader.split.table)  # is there
        assert len(loader.split.shards)
        most = [ContentCache(tmp_path, 0).used_bytes()]
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", pwrite_on_a_disk_of(lambda: most[0], tmp_path))
            assert batches(loader) == local("source")
            loader.set_epoch(0)
            before = ContentCache(tmp_path, 0).used_bytes()
            most[0] = 1 << 40
            assert batches(loader) == local("source")
        assert ContentCache(tmp_path, 0).used_bytes() > before
    (said,) = [record.message for record in caplog.records if "with cache" in record.message]
    assert "cannot be used: No space left on device; free some space" in said


@pytest.mark.parametrize("fetch", ["range", "shard"])
def test_a_disk_that_is_smaller_than_the_bound(
    server: FaultProxy, sets: dict[str, Path], uploaded: dict[str, str], local: Any, tmp_path: Path, fetch: Any,
    monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """What is not in use makes room there, too; now and then, all may be in use."""
    made_room: list[bool] = []

    def counted(path: Path) -> bool:
        made_room.append(remove_unused(path))
        return made_room[-1]

    monkeypatch.setattr("shards.store.remote.content_cache.remove_unused", counted)
    total = sum(path.stat().st_size for path in sets["source"].glob("train*"))
    options = {**OPTIONS, "batch_size": 1, "prefetch": 1, "threads": 1}
    with Loader(uploaded["source"], fetch=fetch, cache=tmp_path, cache_bytes="1GB", **options) as loader:
        monkeypatch.setattr(os, "pwrite", pwrite_on_a_disk_of(lambda: total * 3 // 4, tmp_path))
        assert batches(loader, 3) == local("source", 3, batch_size=1)
    assert any(made_room)
    assert ContentCache(tmp_path, 0).used_bytes() <= total * 3 // 4


@pytest.mark.parametrize("storage", ["source", "raw"])
@pytest.mark.parametrize("fetch", ["range", "shard", "auto"])
def test_a_cache_that_is_removed_under_a_loader(
    server: FaultProxy, uploaded: dict[str, str], local: Any, tmp_path: Path, fetch: Any, storage: str
) -> None:
    """A tar that is begun anew lacks the samples that it had: they are fetched again, not read from its holes."""
    with Loader(uploaded[storage], fetch=fetch, cache=tmp_path / "cache", **OPTIONS) as loader:
        found = []
        for _ in range(3):
            for batch in loader:
                found.append(batch_bytes(batch))
                shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    assert found == local(storage, 3)


@pytest.mark.parametrize(("fetch", "ending"), [("range", ".ranges"), ("shard", ".fetch")])
def test_the_cache_is_removed_just_before_a_file_is_made(
    server: FaultProxy, uploaded: dict[str, str], local: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    fetch: Any, ending: str
) -> None:  # fmt: skip
    """Its folder is made, and gone again when the file is to be made in it."""
    real, removed, lock = os.open, 0, threading.RLock()  # rmtree opens, too

    def late(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
        nonlocal removed
        with lock:  # several threads make files
            if flags & os.O_CREAT and str(path).endswith(ending) and removed < 5:
                removed += 1
                shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        return real(path, flags, *arguments, **named)

    monkeypatch.setattr(os, "open", late)
    with Loader(uploaded["source"], fetch=fetch, cache=tmp_path / "cache", **OPTIONS) as loader:
        assert batches(loader) == local("source")
    assert removed == 5


def test_what_a_tar_lacks_that_was_begun_anew(server: FaultProxy, uploaded: dict[str, str], tmp_path: Path) -> None:
    """One sample was there in the tar that is open, and the cache has another file of its name by now."""
    tars = ShardSet.open(uploaded["source"], fetch="range", cache=tmp_path).split("train").remote
    assert tars is not None
    tars.hold([0], [0])
    for path in files_in(tmp_path):
        if path.name.endswith(".ranges"):
            path.unlink()
    held = tars.hold([0, 0], [0, 1])[0]
    assert held.present[:2].tolist() == [1, 1]
    span = tars.spans([0])[0]
    assert span.matches(memoryview(held[span.start : span.stop]))


@pytest.mark.parametrize("kept", ["whole files", "samples", "nothing"])
def test_a_cache_that_may_only_be_read(server: FaultProxy, uploaded: dict[str, str], local: Any, tmp_path: Path,
                                       monkeypatch: pytest.MonkeyPatch, kept: str) -> None:  # fmt: skip
    """As one that is part of a container's image: what is in it is used, what is not is missing."""
    options = {**OPTIONS, "cache": tmp_path, "fetch": "shard" if kept == "whole files" else "range"}
    if kept != "nothing":
        with Loader(uploaded["source"], **options) as loader:
            assert batches(loader) == local("source")
    real = os.open

    def read_only(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY | os.O_CREAT) and str(path).startswith(str(tmp_path)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, flags, *arguments, **named)

    monkeypatch.setattr(os, "open", read_only)
    if kept == "nothing":
        with pytest.raises(PetsegError, match=r"the cache .* cannot be used: Read-only file system; choose another fo"):
            Loader(uploaded["source"], **options)
        return
    gets = server.plan.requests["GET"]
    with Loader(uploaded["source"], **options) as loader:
        assert batches(loader) == local("source")
    assert server.plan.requests["GET"] - gets <= 1, "but for the manifest nothing is fetched"


PROGRAM = """
import os, sys, threading
from pipeline import Loader
from shards.store.remote import content_cache
address, cache, fetch, die = sys.argv[1:]
count, real = [0], os.pwrite
def pwrite(*arguments):
    count[0] += 1
    if count[0] == int(die):
        os.kill(os.getpid(), 9)
    return real(*arguments)
os.pwrite = pwrite
with Loader(address, split="train", batch_size=4, size=32, device="cpu", seed=5, cache=cache, fetch=fetch) as loader:
    print(sum(int(batch.image.sum()) for batch in loader))
"""


@pytest.mark.faults
def test_killed_processes_and_two_loaders_lose_nothing(
    server: FaultProxy, uploaded: dict[str, str], local: Any, tmp_path: Path, campaign: Callable[[int, int], int]
) -> None:
    """A process is killed while it writes, another one begins on the same cache when that has begun."""
    for number in range(campaign(1, 20)):
        cache = tmp_path / f"{number}"
        for fetch in ("range", "shard"):
            shutil.rmtree(cache, ignore_errors=True)

            def start(die: int, fetch: str = fetch, cache: Path = cache) -> subprocess.Popen[str]:
                command = [sys.executable, "-c", PROGRAM, uploaded["source"], str(cache), fetch, str(die)]
                return ForkedPopen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

            killed = start(1 + number % 5)
            while killed.poll() is None and not files_in(cache):
                time.sleep(0.005)
            running = [killed, start(0)]
            outputs = [process.communicate(timeout=120) for process in running]
            assert [process.returncode for process in running] == [-9, 0], outputs
            with Loader(uploaded["source"], fetch="range", cache=tmp_path / f"{number}", **OPTIONS) as loader:
                assert batches(loader) == local("source")
                assert not loader.damaged


def test_more_shards_than_may_be_open(
    server: FaultProxy, uploaded: dict[str, str], local: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.io.tar_files.MAX_OPEN_FILES", 2)
    monkeypatch.setattr("shards.store.remote.cached_tars.MOST_OPEN", 2)
    with Loader(uploaded["raw"], fetch="range", cache=tmp_path, **OPTIONS) as loader:
        assert batches(loader, 2) == local("raw", 2)


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert open_cache(None, None).folder == tmp_path / "x/petseg"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert open_cache(None, "2GB") == ContentCache(tmp_path / "home/.cache/petseg", 2_000_000_000)
    free = shutil.disk_usage(tmp_path).free
    assert free // 3 < open_cache(tmp_path, None).most_bytes <= free * 2 // 3

    def no_home() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(PetsegError, match="there is no home folder for a cache; name one with cache,"):
        open_cache(None, None)
    (tmp_path / "file").touch()
    with pytest.raises(PetsegError, match="cannot be used: Not a directory"):
        open_cache(tmp_path / "file/cache", None)
    with pytest.raises(UsageError, match="cache_bytes=7 is too small"):
        open_cache(tmp_path, 7)


ONE_SAMPLE_SHARDS = """
import resource, sys
from pipeline import Loader
resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
for address in sys.argv[2:]:
    options = {} if "://" not in address else {"cache": sys.argv[1]}
    with Loader(address, batch_size=100, size=16, device="cpu", seed=5, threads=2, **options) as loader:
        print([sum(int(batch.image.sum()) for batch in loader) for epoch in range(2)], dict(loader.damaged))
"""


def test_more_shards_than_the_limit_of_open_files(
    server: FaultProxy, writer: Callable[..., Path], drawn_pair: Callable[..., Any], tmp_path: Path
) -> None:
    pair = drawn_pair("source", 16, 16, 1)
    folder = writer(tmp_path / "many", [pair] * 400, samples_per_shard=1)
    with range_server(tmp_path) as url:
        command = [sys.executable, "-c", ONE_SAMPLE_SHARDS, str(tmp_path / "cache"), str(folder), f"{url}/many"]
        done = forked_programs.run(command, capture_output=True, text=True, timeout=300)
    assert not done.returncode, done.stderr[-2000:]
    local, remote = done.stdout.splitlines()
    assert local == remote
    assert local.endswith("{}")
