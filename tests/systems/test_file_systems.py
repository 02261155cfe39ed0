"""File systems that refuse permissions, flushing, renaming or locks: nothing stops, and one line says so."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

from petseg.runs.run_folder import RunFolder, create_run
from shards.build.build_set import build
from shards.build.options import PackOptions
from shards.build.staging import BusyError
from shards.errors import UsageError
from shards.store import owner_files
from shards.store.atomic import atomic_file, write_atomically
from shards.store.refusals import lock_at_once

Refuse = Callable[..., None]

# What is refused, as on which file system, and what the only warning says.
REFUSALS = {
    "cifs": ({"fchmod": "EPERM", "chmod": "EPERM"}, "permissions cannot be set there (Operation not permitted)"),
    "mounted object store": ({"fchmod": "ENOTSUP", "chmod": "ENOSYS"}, "permissions cannot be set there"),
    "no flushing of folders": ({"fsync_folder": "EINVAL"}, "takes no request to flush (Invalid argument)"),
    "no flushing": ({"fsync_folder": "EBADF", "fsync_file": "ENOSYS"}, "takes no request to flush"),
    "lustre without locks": ({"flock": "ENOSYS"}, "has no locks (Function not implemented)"),
    "nfs lock daemon gone": ({"flock": "ENOLCK"}, "has no locks (No locks available)"),
    "nfs lock of a folder": ({"flock": "EBADF"}, "has no locks (Bad file descriptor)"),
    "overlay": (
        {"rename_folder": "EXDEV", "renameat2": "EXDEV"},
        "does not rename folders (Invalid cross-device link)",
    ),
    "no exchange": ({"renameat2": "EINVAL"}, ""),
    "no hard links": ({"link": "EPERM"}, ""),
    "no renaming of files": ({"rename_file": "EXDEV"}, "does not rename files (Invalid cross-device link)"),
    "no renaming at all": (
        {"rename_file": "ENOSYS", "rename_folder": "ENOSYS", "renameat2": "ENOSYS"},
        "does not rename f",
    ),
}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(few_pets: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, bytes]]:
    """The set by seed, built where nothing is refused."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for seed in (0, 1):
        build(few_pets, folder / str(seed), packed(seed), workers=1)
    return {seed: tree(folder / str(seed)) for seed in (0, 1)}


def packed(seed: int = 0) -> PackOptions:
    return PackOptions(split="random", seed=seed, samples_per_shard=4)


@pytest.mark.parametrize("where", REFUSALS)
def test_a_set_is_built_replaced_and_said_once(
    where: str,
    few_pets: Path,
    undisturbed: dict[int, dict[str, bytes]],
    refuse: Refuse,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failures, said = REFUSALS[where]
    log = tmp_path / "refused"
    monkeypatch.setenv("PETSEG_ODD_SYSTEM_LOG", str(log))
    refuse(**failures)
    out = tmp_path / "disk" / "out"
    build(few_pets, out, packed(0), workers=1)
    assert tree(out) == undisturbed[0]
    build(few_pets, out, packed(1), workers=1, overwrite=True)
    assert tree(out) == undisturbed[1]
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    if where not in ("no hard links",):
        assert log.exists(), "nothing was refused"
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == len({line.split(" (")[0].split(": ", 1)[1] for line in lines}), lines
    assert all(str(tmp_path) in line for line in lines)
    assert any(said in line for line in lines) if said else not lines


@pytest.mark.parametrize("where", [name for name in REFUSALS if "exchange" not in name and name != "overlay"])
def test_a_run_folder_and_its_files(where: str, refuse: Refuse, tmp_path: Path) -> None:
    """Metrics are replaced at each epoch, under the folder's lock."""
    refuse(**REFUSALS[where][0])
    folder = create_run(tmp_path / "run", model="unet")
    for epochs in (1, 2):
        folder.write_metrics([{"epoch": number} for number in range(epochs)])
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") == 2
    with pytest.raises(UsageError, match="is in use"):
        RunFolder(tmp_path / "run")
    folder.close()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".lock", "metrics.jsonl"]


@pytest.mark.parametrize("code", ["EIO", "ENOSPC", "EDQUOT"])
@pytest.mark.parametrize("function", ["fsync_file", "fsync_folder", "rename_file"])
def test_what_loses_data_is_an_error(code: str, function: str, refuse: Refuse, tmp_path: Path) -> None:
    """The error names the file that the user knows, not the partial one."""
    refuse(**{function: code})
    with pytest.raises(OSError, match=os.strerror(getattr(errno, code))) as caught:
        write_atomically(tmp_path / "file", b"new")
    assert caught.value.filename in (str(tmp_path / "file"), str(tmp_path))
    assert not list(tmp_path.glob(".partial-*"))


def test_predictions_reports_and_tables(
    refuse: Refuse, call: Any, small_run: Path, few_pets: Path, few_shards: Path, tmp_path: Path
) -> None:
    refuse(fchmod="EPERM", fsync_file="EINVAL", fsync_folder="ENOTSUP", rename_file="EXDEV")
    image = next((few_pets / "images").iterdir())
    assert call("petseg-predict", small_run, image, "-o", tmp_path / "masks", "--device", "cpu").code == 0
    assert (tmp_path / "masks" / f"{image.stem}.png").stat().st_size
    csv = ("--csv", tmp_path / "scores.csv")
    assert call("petseg-eval", small_run, "--shards", few_shards, "--device", "cpu", *csv).code == 0
    assert call("petseg-shard", "preview", few_shards, tmp_path / "page.html").code == 0
    assert call("petseg-export", small_run, tmp_path / "net.safetensors").code == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["masks", "net.safetensors", "net.safetensors.md", "page.html", "scores.csv"] or names == [
        "masks", "net.md", "net.safetensors", "page.html", "scores.csv"
    ]  # fmt: skip


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_a_copy_replaces_a_link_and_not_what_it_leads_to(
    refuse: Refuse, tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    refuse(rename_file="EXDEV")
    (tmp_path / "other").write_bytes(b"other")
    link(tmp_path / "file", tmp_path / "other")
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "other").read_bytes() == b"other"
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_copy_that_fails_leaves_no_half_file(refuse: Refuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(rename_file="EXDEV")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("shards.store.refusals.shutil.copyfileobj", full)
    with pytest.raises(OSError, match="No space left"), atomic_file(tmp_path / "file") as handle:
        handle.write(b"data")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["null", "pipe", "socket"])
def test_nothing_is_renamed_over_a_device(name: str, tmp_path: Path) -> None:
    """As root, a report written to /dev/null would replace it for the whole machine."""
    import socket

    path = tmp_path / name
    if name == "null":
        path = Path("/dev/null")
    elif name == "pipe":
        os.mkfifo(path)
    else:
        socket.socket(socket.AF_UNIX).bind(str(path))
    before = path.lstat().st_ino
    with pytest.raises(OSError, match="is a device, pipe or socket"):
        write_atomically(path, b"")
    assert path.lstat().st_ino == before


def test_two_builds_without_locks(
    few_pets: Path, refuse: Refuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner file alone keeps the second build out; that of a process that has ended does not."""
    refuse(flock="ENOLCK")
    out = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as other:
        monkeypatch.setattr(owner_files.os, "getpid", lambda: other.pid)
        release = owner_files.claim(tmp_path / "out.building.owner", locked=False)
        monkeypatch.undo()
        refuse(flock="ENOLCK")
        with pytest.raises(BusyError, match=f"another build is at work in .*out.building .process {other.pid} on "):
            build(few_pets, out, packed(), workers=1)
        other.communicate(b"")
    build(few_pets, out, packed(), workers=1)
    release()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def foreign(path: Path) -> None:
    """Write the owner file of a process on another machine."""
    path.write_bytes(b'{"host":"node7","boot":"another","pid":1,"began":1,"token":"t"}')


@pytest.mark.parametrize("what", ["build", "run"])
def test_another_machine_that_works(what: str, few_pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that only this machine sees is free; the folder's changes show that the other machine works there."""
    monkeypatch.setattr(owner_files, "_POLL_SECONDS", 0.01)
    if what == "run":
        (tmp_path / "run").mkdir()
        foreign(tmp_path / "run" / ".owner")
        monkeypatch.setattr(owner_files.time, "sleep", lambda _: os.utime(tmp_path / "run" / ".owner", (1, 1)))
        with pytest.raises(UsageError, match="is in use: process 1 on node7 is training this run"):
            create_run(tmp_path / "run", model="unet")
        return
    foreign(tmp_path / "out.building.owner")
    (tmp_path / "out.building" / ".work").mkdir(parents=True)
    monkeypatch.setattr(owner_files.time, "sleep", lambda _: (tmp_path / "out.building/.work/shard.tar").touch())
    with pytest.raises(BusyError, match="process 1 on node7"):
        build(few_pets, tmp_path / "out", packed(), workers=1)


def test_another_machine_that_was_killed(
    few_pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(owner_files, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(owner_files, "WATCH_SECONDS", 0.1)
    foreign(tmp_path / "out.building.owner")
    build(few_pets, tmp_path / "out", packed(), workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert "was left by process 1 on node7; waiting up to 0 s" in caplog.text


OWNERS = {
    "a number that no process has": b'{"host":"HOST","boot":"BOOT","pid":1099511627776,"began":1,"token":"t"}',
    "nested deeply": b'{"pid":1,"x":' + b"[" * 100_000,
    "orders to a terminal": b'{"host":"\\u001b[2J","boot":"another","pid":1,"began":1,"token":"t"}',
    "a pipe": b"",
}


@pytest.mark.parametrize("name", OWNERS)
def test_owner_files_that_no_process_has_written(
    name: str, few_pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(owner_files, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(owner_files, "WATCH_SECONDS", 0.1)
    path, me = tmp_path / "out.building.owner", owner_files.Owner.this_process()
    if name == "a pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(OWNERS[name].replace(b"HOST", me.host.encode()).replace(b"BOOT", me.boot.encode()))
    build(few_pets, tmp_path / "out", packed(), workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert "\x1b" not in caplog.text


def test_the_owner_of_a_run_is_seen_to_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner_files, "BEAT_SECONDS", 0.01)
    release = owner_files.claim(tmp_path / "owner", locked=True, beat=True)
    first = (tmp_path / "owner").stat().st_mtime_ns
    wait_until(lambda: (tmp_path / "owner").stat().st_mtime_ns > first)
    release()
    assert not list(tmp_path.iterdir())


def test_a_lock_that_is_held(tmp_path: Path) -> None:
    descriptors = [os.open(tmp_path, os.O_RDONLY) for _ in range(2)]
    try:
        fcntl.flock(descriptors[0], fcntl.LOCK_EX)
        assert lock_at_once(descriptors[1], folder=tmp_path) == "busy"
        os.close(descriptors.pop(0))
        assert lock_at_once(descriptors[0], folder=tmp_path) == "locked"
    finally:
        for each in descriptors:
            os.close(each)


@pytest.mark.parametrize("length", [241, 250, 300])
def test_a_set_whose_name_is_too_long(length: int, few_pets: Path, call: Any, tmp_path: Path) -> None:
    """OUT.building is longer than OUT; a message does not repeat hundreds of letters."""
    done = call("shard", "build", few_pets, tmp_path / ("ä" * (length // 2)), "--workers", 1)
    if length == 241:  # OUT.building still fits
        assert done.code == 0
        return
    assert "the name is longer than the file system takes; choose a shorter one" in done.error
    assert len(done.error) < 320


@pytest.mark.parametrize(
    "arguments",
    [
        ("shard", "preview", "SET", f"{'x' * 300}.png"),
        ("shard", "labels", "PETS", "-o", f"{'x' * 300}.toml"),
        ("train", "--shards", "SET", "--run", "x" * 300),
    ],
    ids=lambda arguments: "-".join(arguments[:2]),
)
def test_a_file_whose_name_is_too_long(
    arguments: tuple[str, ...],
    few_pets: Path,
    few_shards: Path,
    call: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = call(*({"SET": few_shards, "PETS": few_pets}.get(each, each) for each in arguments))
    assert "the name is longer than the file system takes; choose " in done.error
    assert len(done.error) < 320
