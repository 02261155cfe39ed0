"""Temporary folders: what a killed process leaves there is removed, never what is in use or belongs to others."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import msgspec
import pytest

from petseg.runs.run_folder import create_run
from shards.store.owner_files import Owner, scratch_folder

fork = multiprocessing.get_context("fork")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def killed() -> None:
    """Leave what a process leaves that is killed in such a folder."""

    def work() -> None:
        with scratch_folder("copy") as folder:
            (folder / "large").write_bytes(b"x")
            (folder / "part").mkdir()
            os.kill(os.getpid(), signal.SIGKILL)

    process = fork.Process(target=work)
    process.start()
    process.join()


def test_what_a_killed_process_left_is_removed(place: Path) -> None:
    killed()
    killed()  # removes the first one's
    assert len(list(place.iterdir())) == 1
    with scratch_folder("shard") as folder:
        assert [path.name for path in place.iterdir()] == [folder.parent.name]
        assert not list(folder.iterdir())
    assert not list(place.iterdir())


def test_what_is_in_use_stays(place: Path) -> None:
    with scratch_folder("copy") as first:
        (first / "mine").touch()
        process = fork.Process(target=lambda: scratch_folder("join").__enter__())
        process.start()
        process.join()
        with scratch_folder("join"):
            assert (first / "mine").exists()


def other(owner: Owner, **changed: object) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(owner, **changed))


@pytest.mark.parametrize("what", ["machine", "boot", "no boot", "user", "name", "no owner", "damaged", "link", "more"])
def test_what_may_be_in_use_elsewhere_stays(what: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed()
    (folder,) = place.iterdir()
    file, owner = folder / ".owner", msgspec.json.decode((folder / ".owner").read_bytes(), type=Owner)
    if what == "machine":  # a folder that several machines have as TMPDIR
        file.write_bytes(other(owner, host="another"))
    elif what == "boot":
        file.write_bytes(other(owner, boot="another"))
    elif what == "no boot":  # without /proc, process numbers may be those of another container
        monkeypatch.setattr("shards.store.owner_files._boot", str)
        file.write_bytes(other(owner, boot=""))
    elif what == "user":
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    elif what == "name":
        folder = folder.rename(place / "petseg-copy-my files")
    elif what == "no owner":
        file.unlink()
    elif what == "damaged":
        file.write_bytes(b"[" * 100_000)
    elif what == "link":
        kept = folder.rename(place / "kept")
        folder.symlink_to(kept)
    else:
        (folder / "last.pt").touch()
    with scratch_folder("copy"):
        pass
    assert (folder / "files" / "large").exists()


@pytest.mark.parametrize("parent", [False, True])
def test_a_killed_run_of_such_a_name_stays(parent: bool, place: Path) -> None:
    def train() -> None:
        run = create_run(place / "petseg-run-20260131", model="unet")
        (run / "last.pt").write_bytes(b"x")
        os.kill(os.getpid(), signal.SIGKILL)

    process = fork.Process(target=train)
    process.start()
    process.join()
    with scratch_folder("sample", parent=place if parent else None):
        pass
    assert (place / "petseg-run-20260131" / "last.pt").exists()
