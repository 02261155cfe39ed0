"""Files of a set that change, end early or are no files: an error that names the file, never a signal or a hang."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shard_sources import options

from pipeline import Loader
from pipeline.io.tar_files import TarFiles
from shards.build.build_set import build
from shards.errors import FormatError, PetsegError, SampleError
from shards.format import npy
from shards.format.dataset import MAX_OPEN, ShardSet
from shards.format.layout import SAMPLE_DTYPE
from shards.format.manifest import load_manifest
from shards.store.byte_ranges import ByteRanges, open_regular, read_regular
from shards.verify.check_set import verify


@pytest.fixture
def copy(tiny_sets: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_sets["source"], tmp_path / "set"))


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_socket(path: Path) -> None:
    path.unlink()
    before = Path.cwd()
    os.chdir(path.parent)  # a socket's address is short
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(before)


def replace_by_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


@pytest.mark.parametrize("replace", [replace_by_fifo, replace_by_socket, replace_by_loop])
@pytest.mark.parametrize(
    "name", ["manifest.json", "train.samples.npy", "train.shards.npy", "train-000000.tar", "train-000000.idx"]
)
@pytest.mark.timeout(60)
def test_what_is_no_file_is_named_and_not_waited_for(copy: Path, name: str, replace: Callable[[Path], None]) -> None:
    replace(copy / name)
    assert name in {problem.file for problem in verify(copy).problems}
    if name.endswith(".idx"):
        return  # which is for DALI's own reader
    with pytest.raises(PetsegError, match=name):
        ShardSet.open(copy).split("train").read(0, "image")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)


def test_ranges_are_those_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    with ByteRanges(path) as ranges:
        for start in (0, 1, 50, 99, 100, 150, -3, -200, 2**70):
            for stop in (0, 1, 60, 100, 101, -1, 2**64, None):
                assert ranges[start:stop] == bytes(range(100))[start:stop]
        path.write_bytes(b"short")
        assert ranges[0:100] == b"short"
    assert read_regular(path) == b"short"


TRUNCATED = textwrap.dedent(
    """
    import os, sys
    from shards.errors import PetsegError
    from shards.format import npy
    from shards.format.dataset import ShardSet
    npy.IN_MEMORY = int(sys.argv[3])
    reader = ShardSet.open(sys.argv[1]).split("train")
    keys = [reader.key(index) for index in range(len(reader))]
    os.truncate(os.path.join(sys.argv[1], sys.argv[2]), 600)
    try:
        for index in reversed(range(len(reader))):
            reader.read(index, "image"), reader.key(index), reader.meta(index)
    except PetsegError as error:
        print("error:", error)
    """
)


@pytest.mark.parametrize(
    ("name", "in_memory", "expected"),
    [
        ("train.samples.npy", 0, "train.samples.npy is damaged: it ends before the record"),
        ("train.samples.npy", npy.IN_MEMORY, ""),
        ("train-000000.tar", 0, "train-000000.tar"),
    ],
)
def test_a_file_truncated_under_a_reader_kills_nothing(copy: Path, name: str, in_memory: int, expected: str) -> None:
    """In a process of its own, since a memory map would end it by SIGBUS."""
    program = [sys.executable, "-c", TRUNCATED, str(copy), name, str(in_memory)]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
    assert bool(expected) == bool(done.stdout)


def test_records_read_one_by_one_are_those_of_the_whole_table(
    tiny_sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, samples = tiny_sets["raw"] / "train.samples.npy", len(ShardSet.open(tiny_sets["raw"]).split("train"))
    whole = np.load(path)
    assert whole.dtype == SAMPLE_DTYPE
    monkeypatch.setattr(npy, "IN_MEMORY", 0)
    monkeypatch.setattr(npy, "_CHUNK", 4)
    table = npy.SampleTable(path, samples=samples)
    random = np.random.default_rng(0)
    for count in (0, 1, 2, 5, samples, 3 * samples):
        indices = random.integers(0, samples, count)
        assert np.array_equal(table[indices], whole[indices])
    for part in (slice(None), slice(3, 9), slice(9, 3), slice(0, 0), slice(-2, None)):
        assert np.array_equal(table[part], whole[part])
    assert table[5] == whole[5]
    assert np.array_equal(table.column("key_hash"), whole["key_hash"])
    for index in (samples, -1):
        with pytest.raises(IndexError):
            table[index]


@pytest.fixture
def few_descriptors() -> Iterator[Callable[[int], None]]:
    """``few_descriptors(n)``: this process may open only so many more files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def allow(more: int) -> None:
        listed = [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]
        used = {number for number in listed if Path(f"/proc/self/fd/{number}").exists()}  # not that of the listing
        free = [number for number in range(max(used) + more + 2) if number not in used]
        resource.setrlimit(resource.RLIMIT_NOFILE, (free[more], before[1]))

    yield allow
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture(scope="module")
def many_shards(tiny_pets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of one sample per shard."""
    out = tmp_path_factory.mktemp("many") / "set"
    build(tiny_pets, out, options("raw", split="random", fractions=(1.0, 0.0, 0.0), samples_per_shard=1), workers=1)
    return out


@pytest.mark.parametrize("on_error", ["stop", "replace"])
def test_more_shards_than_a_process_may_open(
    many_shards: Path, few_descriptors: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, on_error: str
) -> None:
    monkeypatch.setattr("pipeline.io.tar_files.MAX_OPEN_FILES", 6)
    with Loader(many_shards, batch_size=10, size=24, device="cpu", engine="torch", threads=1, prefetch=1) as loader:
        expected = [batch.image.clone() for batch in loader]
    with Loader(
        many_shards, batch_size=10, size=24, device="cpu", engine="torch", threads=1, prefetch=1, on_error=on_error
    ) as loader:
        few_descriptors(14)
        assert all((batch.image == image).all() for batch, image in zip(loader, expected, strict=True))


READS: dict[str, Callable[[Path], object]] = {
    "manifest": ShardSet.open,
    "table": lambda folder: ShardSet.open(folder).split("train").table,
    "table of shards": lambda folder: ShardSet.open(folder).split("train").shards,
    "tar": lambda folder: ShardSet.open(folder).split("train").read(0, "mask"),
    "stop": lambda folder: list(Loader(folder, batch_size=10, size=24, device="cpu", threads=1)),
    "replace": lambda folder: list(Loader(folder, batch_size=10, device="cpu", threads=1, on_error="replace")),
    "verify": verify,
}
FILE_OF = {"manifest": "manifest.json", "table": "train.samples.npy", "table of shards": "train.shards.npy"}


@pytest.mark.parametrize(
    ("read", "code"), [*((read, errno.EMFILE) for read in READS), ("replace", errno.ENFILE), ("replace", errno.ENOMEM)]
)
def test_a_lack_of_descriptors_is_no_damage(
    many_shards: Path, monkeypatch: pytest.MonkeyPatch, read: str, code: int
) -> None:
    opened = os.open

    def fail(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).startswith(str(many_shards)) and str(path).endswith(FILE_OF.get(read, ".tar")):
            raise OSError(code, os.strerror(code), str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", fail)
    monkeypatch.setattr("shards.verify.check_file.file_sha256", lambda path: fail(path, os.O_RDONLY))
    with pytest.raises(PetsegError, match=f"{os.strerror(code)}; nothing is damaged") as caught:
        READS[read](many_shards)
    assert not isinstance(caught.value, FormatError | SampleError)


def test_a_reader_keeps_a_limited_number_of_tars_open(many_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shards.format.dataset.MAX_OPEN", 3)
    reader = ShardSet.open(many_shards).split("train")
    assert MAX_OPEN < 1024
    before = len(list(Path("/proc/self/fd").iterdir()))
    keys = [reader.key(index) for index in range(len(reader))]
    assert len(set(keys)) == len(reader) == 30
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 3
    reader.close()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


@pytest.mark.parametrize("reader", ["set", "loader"])
def test_nobody_waits_for_a_tar_that_another_thread_opens(
    many_shards: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    """As on a disk that does not answer: no lock is held meanwhile."""
    split = ShardSet.open(many_shards).split("train")
    tars = TarFiles(split)
    read: Callable[[int], object] = tars.open if reader == "loader" else lambda index: split.read(index, "mask")
    read(2)  # the tables
    opened, hangs, go_on = os.open, threading.Event(), threading.Event()

    def slow(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).endswith("000000.tar"):
            hangs.set()
            assert go_on.wait(60)
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", slow)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(read, 0)
        try:
            assert hangs.wait(20)
            assert threads.submit(read, 1).result(20)
            assert not first.done()
        finally:
            go_on.set()
        assert first.result(20)


def test_an_unreadable_manifest_says_read(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("shards.store.byte_ranges.open_regular", refused)
    with pytest.raises(FormatError, match="cannot be read: Permission denied"):
        load_manifest(copy)
