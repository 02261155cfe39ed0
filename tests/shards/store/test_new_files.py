"""Files that must not exist yet, where a file system has all three ways to create them, or the last one alone."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shards.errors import PetsegError
from shards.store import atomic, owner_files, refusals
from shards.store.atomic import atomic_file, create_file, write_atomically
from shards.store.folder_store import FolderStore
from shards.store.owner_files import OwnedError, claim
from shards.store.store_protocol import ObjectExistsError

fork = multiprocessing.get_context("fork")


@pytest.fixture(params=["renamed", "linked", "claimed"])
def means(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How files are created; what would come before it is refused, as on other file systems."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if request.param != "renamed":
        monkeypatch.setattr(atomic, "rename_specially", lambda *_: False)
    if request.param == "claimed":
        monkeypatch.setattr(os, "link", refuse)
    return str(request.param)


def test_nothing_is_replaced(means: str, tmp_path: Path) -> None:
    """Also no link that leads nowhere, and by no name that leaves no room for a longer one."""
    long = "x" * 255
    (tmp_path / "dangling").symlink_to("nowhere")
    store = FolderStore(tmp_path)
    for name in ("a", long):
        store.put(name, b"1", if_absent=True)
        with pytest.raises(ObjectExistsError):
            store.put(name, b"2", if_absent=True)
        with pytest.raises(FileExistsError, match=name):  # as one that another process has made meanwhile
            write_atomically(tmp_path / name, b"3", replace=False)
        assert store.read(name) == b"1"
    with pytest.raises(ObjectExistsError):
        store.put("dangling", b"2", if_absent=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "dangling", long]


def test_one_of_several_processes_creates_a_file(means: str, tmp_path: Path) -> None:
    together, won = fork.Barrier(4), fork.SimpleQueue()

    def create(number: int) -> None:
        for turn in range(20):
            together.wait()
            try:
                write_atomically(tmp_path / str(turn), f"{number}", replace=False)
                won.put((turn, number))
            except FileExistsError:
                pass

    processes = [fork.Process(target=create, args=(number,)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    winners = []
    while not won.empty():
        winners.append(won.get())
    assert sorted(turn for turn, _ in winners) == list(range(20))
    assert all((tmp_path / str(turn)).read_text() == str(number) for turn, number in winners)
    assert len(list(tmp_path.iterdir())) == 20


def test_two_take_over_what_a_killed_process_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have found it abandoned, and one of them is faster."""
    path, judge, faster = tmp_path / "owner", owner_files._expect_abandoned, list[Callable[[], None]]()
    killed = fork.Process(target=claim, args=(path,), kwargs={"locked": False})
    killed.start()
    killed.join()

    def late(*arguments: Any, **named: Any) -> None:
        judge(*arguments, **named)
        monkeypatch.undo()
        faster.append(claim(path, locked=False))

    monkeypatch.setattr(owner_files, "_expect_abandoned", late)
    with pytest.raises(OwnedError):
        claim(path, locked=False)
    assert [entry.name for entry in tmp_path.iterdir()] == ["owner"]
    faster[0]()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("step", ["rename_file", "rename_specially", "os.link", "os.path.lexists"])
def test_a_killed_process_bars_nobody(means: str, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").write_text("killed")

    def create() -> None:
        module, _, name = f"shards.store.atomic.{step}".rpartition(".")
        monkeypatch.setattr(f"{module}.{name}", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        create_file(tmp_path / "mine", tmp_path / "x")

    process = fork.Process(target=create)
    process.start()
    process.join()
    (tmp_path / "mine").unlink(missing_ok=True)
    assert process.exitcode in (0, -signal.SIGKILL)
    if process.exitcode:
        assert not (tmp_path / "x").exists()
        FolderStore(tmp_path).put("x", b"next", if_absent=True)
        assert (tmp_path / "x").read_bytes() == b"next"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@contextlib.contextmanager
def largest_file(most: int) -> Iterator[None]:
    """Within the block no file can have more bytes, as on a disk that is full; that of the tests' output neither."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("sizes", [[5000], [4000, 8000], [100_000], [3000, 3000, 3000, 3000]])
def test_the_file_is_named_that_does_not_fit(sizes: list[int], tmp_path: Path) -> None:
    """What a buffer still holds fails once more when the file is closed."""
    full = pytest.raises(OSError, match="File too large")
    with full as caught, largest_file(4096), atomic_file(tmp_path / "file") as file:
        file.writelines(map(bytes, sizes))
    assert caught.value.filename == str(tmp_path / "file")
    assert not list(tmp_path.iterdir())


def test_no_empty_claim_is_left(tmp_path: Path) -> None:
    """The next process would watch it for a minute and a half."""
    with pytest.raises(OSError, match="File too large") as caught, largest_file(0):
        claim(tmp_path / "owner", locked=True)
    assert caught.value.filename == str(tmp_path / "owner")
    assert not list(tmp_path.iterdir())


def test_a_turn_does_not_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is stopped while it writes keeps its turn."""
    monkeypatch.setattr(refusals, "TURN_SECONDS", 0.1)
    with refusals.taking_turns(tmp_path):
        with pytest.raises(PetsegError, match="another process has been writing"), refusals.taking_turns(tmp_path):
            pass
        with refusals.taking_turns(tmp_path / "none"):  # what is written there will fail, and say why
            pass
    with refusals.taking_turns(tmp_path):
        pass


def test_a_folder_without_locks_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with refusals.taking_turns(tmp_path), refusals.taking_turns(tmp_path):
        pass


def test_a_folder_of_an_owner_files_name_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was waited for, and then renamed."""
    monkeypatch.setattr(owner_files, "WATCH_SECONDS", 0.0)
    (tmp_path / ".owner").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        claim(tmp_path / ".owner", locked=True)
    assert caught.value.filename == str(tmp_path / ".owner")
    assert list(tmp_path.iterdir()) == [tmp_path / ".owner"]
