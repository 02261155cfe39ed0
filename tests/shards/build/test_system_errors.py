"""Full disks, missing permissions, killed workers and Ctrl-C: one line says what to do, and no partial file is left."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from build_processes import assert_gone, children, start, wait_for_a_shard
from shard_sources import Maker, fill, options, tree
from waiting import PATIENCE

from shards.build.build_set import build


def test_ctrl_c_says_how_to_resume(slow_pets: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with start(slow_pets, out, start_new_session=True) as process:
        wait_for_a_shard(out, lambda: process.poll() is None)
        workers = children(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert len(errors.strip().splitlines()) == 1, errors
    assert "interrupted; " in errors
    assert "run the same command again to resume" in errors
    assert_gone(workers)
    assert not list(tmp_path.rglob(".partial-*"))
    build(slow_pets, out, options(), workers=1)
    assert tree(out) == undisturbed


def test_a_killed_worker_is_explained(slow_pets: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with start(slow_pets, out) as process:
        wait_for_a_shard(out, lambda: process.poll() is None)
        os.kill(children(process.pid)[0], signal.SIGKILL)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert len(errors.splitlines()) == 1, errors
    assert "a worker process was killed, perhaps for lack of memory" in errors
    assert not list(tmp_path.rglob(".partial-*"))


def test_a_file_that_may_not_grow(slow_pets: Path, tmp_path: Path) -> None:
    """What a quota or a limit does: the very first shard cannot be written, so nothing stays behind."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    out = tmp_path / "out"
    with start(slow_pets, out, preexec_fn=limit) as process:
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert len(errors.splitlines()) == 1, errors
    assert "File too large" in errors
    assert not list(tmp_path.iterdir())


def test_a_full_disk(slow_pets: Path, undisturbed: dict[str, bytes], tmp_path: Path, small_disk: Any) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk:
        with start(slow_pets, disk / "out") as process:
            _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 1
        assert len(errors.splitlines()) == 1, errors
        assert "the disk is full; free some space and run the same command again" in errors
        assert "finished shards are kept" in errors
        assert not list(disk.rglob(".partial-*"))
        assert not (disk / "out").exists()
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        with start(slow_pets, disk / "out") as process:
            text, errors = process.communicate(timeout=PATIENCE)
        assert "resumed with" in text, errors
        assert tree(disk / "out") == undisturbed


@pytest.mark.parametrize("out", ["/proc/petseg/out", "/dev/null/out", "/proc/out"])
def test_a_target_that_cannot_be_written(slow_pets: Path, out: str) -> None:
    with start(slow_pets, Path(out)) as process:
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode in (1, 2)
    assert len(errors.splitlines()) == 1, errors
    assert "Error: " in errors


AS_NOBODY = """
import os, sys
from shards.cli import main
pets, out, warm = sys.argv[1:4]
if os.geteuid() == 0:
    try:
        main.main(["build", pets, warm, "--split", "random", "--workers", "2"])  # imports all that root alone may read
    except SystemExit as end:
        assert not end.code
    try:
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
    except OSError:
        sys.exit(77)
print("from here on as", os.geteuid(), file=sys.stderr)
main.main(["build", pets, out, "--split", "random", "--workers", "2"])
"""


def as_nobody(pets: Path, out: Path, warm: Path) -> tuple[int, str]:
    """Build as a user whom permissions bind; return the exit code and what it wrote to stderr."""
    arguments = [sys.executable, "-c", AS_NOBODY, *map(str, (pets, out, warm))]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=PATIENCE)
    if done.returncode == 77:
        pytest.skip("this process may not become another user")
    before, errors = done.stderr.split("from here on as ")
    assert not before
    user, errors = errors.split("\n", 1)
    assert user != "0"
    return done.returncode, errors


def test_a_folder_without_permission(open_folder: Path) -> None:
    maker = Maker(open_folder / "pets")
    fill(maker, 6)
    folder = open_folder / "closed"
    folder.mkdir()
    folder.chmod(0o555)
    code, errors = as_nobody(maker.folder, folder / "out", open_folder / "warm")
    assert code == 1
    assert errors == (f"Error: permission denied; choose a folder that you may write to ({folder / 'out.building'})\n")
    assert not list(folder.iterdir())


@pytest.mark.parametrize("what", ["..", "images", "images/Bengal_4.jpg", "annotations/trimaps", "annotations/test.txt"])
def test_a_source_without_permission(open_folder: Path, what: str) -> None:
    """An image, a list, a folder: named, with what to do."""
    maker = Maker(open_folder / "pets")
    fill(maker, 6)
    closed, folder = open_folder / "closed" / "pets", open_folder / "open"
    shutil.copytree(maker.folder, closed)
    folder.mkdir()
    folder.chmod(0o777)
    warm = open_folder / "warm"
    place = closed.parent if what == ".." else closed / what
    place.chmod(0)
    try:
        code, errors = as_nobody(closed, folder / "out", warm)
    finally:
        place.chmod(0o755)
    assert code == 1
    assert errors.startswith("Error: ")
    assert len(errors.splitlines()) == 1
    assert f"{place} cannot be read (Permission denied)" in errors
    assert not (folder / "out").exists()
    if not what.endswith(".jpg"):  # else shards of other images are kept
        assert not list(folder.iterdir())


def test_ctrl_c_while_processes_start_is_neither_lost_nor_theirs(slow_pets: Path, tmp_path: Path) -> None:
    """Python ignores what interrupts the middle of a fork; here Ctrl-C comes at every fork, to all processes."""
    code = (
        "import os, signal, sys\n"
        "os.register_at_fork(after_in_parent=lambda: os.killpg(0, signal.SIGINT))\n"
        "from shards.cli import main\n"
        "main.main(['build', *sys.argv[1:], '--workers', '2'])\n"
    )
    arguments = [sys.executable, "-c", code, str(slow_pets), str(tmp_path / "out")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60, start_new_session=True)
    assert done.returncode == 130, done.stderr
    assert done.stderr.strip() == "Error: interrupted; nothing was finished yet"
    assert not list(tmp_path.iterdir())
