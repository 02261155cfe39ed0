"""Kills, full disks and interrupts at any moment: nothing half, nothing lost, nothing left lying about."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from shard_sources import Maker, encoded, fill, options, tree

from shards.build.build_set import Built, StrictError, build
from shards.format.dataset import ShardSet

PROGRAM = Path(sys.executable).parent / "petseg-shard"
STEPS = ("fsync", "rename", "replace", "unlink", "mkdir", "rmdir")


@pytest.fixture(scope="session")
def slow_pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred and twenty pairs of 640 x 480 pixels: about half a second of work, time enough to disturb it."""
    maker = Maker(tmp_path_factory.mktemp("slow") / "pets")
    rng = np.random.default_rng(0)
    mask = encoded(np.repeat(np.repeat(rng.integers(1, 4, (24, 32), dtype=np.uint8), 20, 0), 20, 1), "PNG")
    noise = rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)
    for number in range(120):
        maker.add(f"a_{number}", image=simplejpeg.encode_jpeg(np.roll(noise, number, 0), quality=80), mask=mask)
    maker.lists(test=maker.names[:40], trainval=maker.names[40:])
    return maker.folder


@pytest.fixture(scope="session")
def undisturbed(slow_pets: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    build(slow_pets, out, options())
    return tree(out)


def start(source: Path, out: Path, *more: str, **named: object) -> subprocess.Popen[str]:
    arguments = [PROGRAM, "build", source, out, "--samples-per-shard", "4", "--workers", "2", *more]
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        list(map(str, arguments)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **named
    )


def wait_for_a_shard(out: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a shard is finished, and the build is not."""
    deadline = time.monotonic() + 30
    while not list(out.with_name(f"{out.name}.building").glob(".work/*.done")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def assert_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() and "Z" not in _state(pid) for pid in pids):
        assert time.monotonic() < deadline, "worker processes outlive their build"
        time.sleep(0.01)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"


def stage(out: Path) -> str:
    """How far a build had come when it was killed."""
    building = out.with_name(f"{out.name}.building")
    if out.exists():
        return "cleaning up" if building.exists() or (out / ".work").exists() else "finished"
    if (building / "manifest.json").exists():
        return "complete"
    if not (building / ".work" / "plan").exists():
        return "before the plan"
    return "some shards" if list(building.glob(".work/*.done")) else "no shard yet"


@pytest.mark.faults
def test_killed_at_random_moments(
    slow_pets: Path,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    campaign: Callable[[int, int], int],
    record_property: Callable[[str, object], None],
) -> None:
    """A third of the kills is aimed at each stage of a build; each must be hit, whatever the machine's speed."""
    rng = random.Random(5)
    out, work = tmp_path / "out", tmp_path / "out.building" / ".work"
    aims: list[Callable[[], bool]] = [
        (work / "plan").exists,
        lambda: any(work.glob("*.done")),
        lambda: (work.parent / "manifest.json").exists() or out.exists(),
    ]
    found: Counter[str] = Counter()
    for number in range(campaign(6, 100)):
        with start(slow_pets, out) as process:
            while not aims[number % 3]() and process.poll() is None:
                time.sleep(0.0002)
            time.sleep(rng.uniform(0, (0.03, 0.3, 0.003)[number % 3]))
            workers = children(process.pid) if process.poll() is None else []
            process.kill()
            process.communicate()
        assert_gone(workers)
        found[stage(out)] += 1
        if out.exists():
            assert (out / "manifest.json").exists()
        with start(slow_pets, out) as process:
            _, errors = process.communicate()
        assert process.returncode == 0, errors
        assert tree(out) == undisturbed
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
        for path in out.iterdir():
            path.unlink()
        out.rmdir()
    record_property("kills", dict(found))
    print("kills by stage:", dict(found))  # noqa: T201 - shown with pytest -rP
    assert found["some shards"] > 0
    if campaign(0, 1):
        assert min(found[name] for name in ("no shard yet", "some shards")) >= 10, found
        assert found["complete"] + found["cleaning up"] >= 3, found


def killed_at(step: int, function: Callable[[], Built]) -> bool:
    """Run a function in a child that kills itself before its ``step``-th change to the disk; True if it came there."""
    child = os.fork()
    if child == 0:
        count = 0

        def counted(real: Callable[..., object]) -> Callable[..., object]:
            def call(*arguments: object, **named: object) -> object:
                nonlocal count
                count += 1
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **named)

            return call

        try:
            for name in STEPS:
                setattr(os, name, counted(getattr(os, name)))
            function()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("kind", ["new", "overwrite", "empty shards"])
def test_killed_at_every_step(maker: Maker, tmp_path: Path, kind: str) -> None:
    """Before each flush, rename and removal in turn, to the last of the clean-up."""
    for number in range(8):
        broken = kind == "empty shards" and number % 2
        maker.add(f"a_{number}", image=b"broken" if broken else None)
    chosen = options(split="random", fractions=(0.5, 0.0, 0.5), samples_per_shard=1 if kind == "empty shards" else 2)
    build(maker.folder, tmp_path / "expected", chosen, workers=1)
    expected = tree(tmp_path / "expected")
    out, step, resumed = tmp_path / "out", 0, 0
    while True:
        step += 1
        if kind == "overwrite":
            build(maker.folder, out, options(split="random", seed=9), workers=1, overwrite=out.exists())
            old = tree(out)
        overwrite = kind == "overwrite"
        command = partial(build, maker.folder, out, chosen, workers=1, overwrite=overwrite)
        killed = killed_at(step, command)
        if (out / "manifest.json").exists():
            visible = {name: data for name, data in tree(out).items() if not name.startswith(".work")}
            assert visible == expected or (kind == "overwrite" and visible == old)
        elif kind == "overwrite":
            pytest.fail(f"no set at all after a kill at step {step}")
        records = len(list((tmp_path / "out.building" / ".work").glob("*.done")))
        complete = (tmp_path / "out.building" / "manifest.json").exists()
        built = command()
        assert built.resumed == (0 if complete else records) or built.already or kind == "overwrite"
        resumed = max(resumed, built.resumed)
        assert tree(out) == expected, f"step {step}"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["expected", "out", "pets"], f"step {step}"
        for path in out.iterdir():
            path.unlink()
        out.rmdir()
        if not killed:
            break
    assert step > 20
    assert resumed >= 3


def test_other_builds_after_a_kill_at_the_end(maker: Maker, tmp_path: Path) -> None:
    """Killed while it swaps or cleans up; then another set, and a strict one, is asked for."""
    for number in range(4):
        maker.add(f"a_{number}")
    out = tmp_path / "out"

    def command(seed: int, *, strict: bool = False) -> Callable[[], Built]:
        chosen = options(split="random", seed=seed)
        return partial(build, maker.folder, out, chosen, workers=1, overwrite=True, strict=strict)

    command(1)()
    step, swapped = 0, 0
    while True:
        step += 1
        if not killed_at(step, command(2)):
            break
        if ShardSet.open(out).manifest.options.seed == 2:
            swapped += 1
            command(3, strict=True)()
            assert ShardSet.open(out).manifest.options.seed == 3
            assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "pets"]
            command(1)()
        else:
            shutil.rmtree(tmp_path / "out.building", ignore_errors=True)  # start anew, not go on
    assert swapped > 5


def test_strict_after_a_kill_of_a_build_that_was_not(maker: Maker, tmp_path: Path) -> None:
    for number in range(4):
        maker.add(f"a_{number}", image=b"broken" if number == 2 else None)
    chosen, out = options(split="random"), tmp_path / "out"
    step = 1
    while killed_at(step, partial(build, maker.folder, out, chosen, workers=1)):
        complete = (tmp_path / "out.building" / "manifest.json").exists()
        if complete or out.exists():
            with pytest.raises(StrictError):
                build(maker.folder, out, chosen, workers=1, strict=True)
            assert complete != out.exists()
        for folder in (out, tmp_path / "out.building"):
            if folder.exists():
                shutil.rmtree(folder)
        step += 1
    assert step > 10


def test_a_resumed_build_does_not_redo_finished_shards(
    slow_pets: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with start(slow_pets, out) as process:
        wait_for_a_shard(out, process)
        process.kill()
    work = tmp_path / "out.building" / ".work"
    kept = {path.stem: path.with_suffix(".tar").stat().st_ino for path in work.glob("*.done")}
    assert kept
    with start(slow_pets, out) as process:
        text, _ = process.communicate()
    assert f"went on with {len(kept)} shards" in text
    for stem, inode in kept.items():
        assert (out / f"{stem}.tar").stat().st_ino == inode
    assert tree(out) == undisturbed


def test_a_finished_shard_that_was_damaged_or_whose_source_changed_is_built_again(
    slow_pets: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with start(slow_pets, out) as process:
        wait_for_a_shard(out, process)
        process.kill()
    work = tmp_path / "out.building" / ".work"
    victim = next(work.glob("*.done")).with_suffix(".tar")
    with victim.open("r+b") as handle:
        handle.write(b"damage")
    build(slow_pets, out, options())
    assert tree(out) == undisturbed


def test_other_options_start_afresh_and_say_so(slow_pets: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with start(slow_pets, out) as process:
        wait_for_a_shard(out, process)
        process.kill()
    with start(slow_pets, out, "--seed", "3") as process:
        text, _ = process.communicate()
    assert "unfinished work of another source or other options was thrown away" in text
    assert ShardSet.open(out).manifest.options.seed == 3


def test_ctrl_c_says_how_to_go_on(slow_pets: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with start(slow_pets, out, start_new_session=True) as process:
        wait_for_a_shard(out, process)
        workers = children(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert len(errors.strip().splitlines()) == 1, errors
    assert "interrupted; " in errors
    assert "run the same command again to go on" in errors
    assert_gone(workers)
    assert not list(tmp_path.rglob(".partial-*"))
    build(slow_pets, out, options())
    assert tree(out) == undisturbed


def test_a_killed_worker_is_explained(slow_pets: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with start(slow_pets, out) as process:
        wait_for_a_shard(out, process)
        os.kill(children(process.pid)[0], signal.SIGKILL)
        _, errors = process.communicate(timeout=20)
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
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert len(errors.splitlines()) == 1, errors
    assert "File too large" in errors
    assert not list(tmp_path.iterdir())


def test_a_full_disk(slow_pets: Path, undisturbed: dict[str, bytes], tmp_path: Path, small_disk: Any) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk:
        with start(slow_pets, disk / "out") as process:
            _, errors = process.communicate(timeout=60)
        assert process.returncode == 1
        assert len(errors.splitlines()) == 1, errors
        assert "the disk is full; free some space and run the same command again" in errors
        assert "finished shards are kept" in errors
        assert not list(disk.rglob(".partial-*"))
        assert not (disk / "out").exists()
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        with start(slow_pets, disk / "out") as process:
            text, errors = process.communicate(timeout=60)
        assert "went on with" in text, errors
        assert tree(disk / "out") == undisturbed


@pytest.mark.parametrize("out", ["/proc/petseg/out", "/dev/null/out", "/proc/out"])
def test_a_target_that_cannot_be_written(slow_pets: Path, out: str) -> None:
    with start(slow_pets, Path(out)) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode in (1, 2)
    assert len(errors.splitlines()) == 1, errors
    assert "Error: " in errors


AS_NOBODY = """
import os, sys
from shards.cli import main
pets, out, warm = sys.argv[1:4]
try:
    main.main(["build", pets, warm, "--split", "random", "--workers", "2"])  # imports all that root alone may read
except SystemExit as end:
    assert not end.code
if os.geteuid() == 0:
    try:
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
    except OSError:
        sys.exit(77)
print("from here on as", os.geteuid(), file=sys.stderr)
main.main(["build", pets, out, "--split", "random", "--workers", "2"])
"""


def as_nobody(pets: Path, out: Path, warm: Path) -> tuple[int, str]:
    """Build as a user whom permissions bind; return the exit code and what it wrote to stderr."""
    for folder in (out.parent, *out.parent.parents):
        if os.geteuid() == 0 and folder.stat().st_mode & 0o777 == 0o700:
            folder.chmod(0o755)  # pytest's own folders
    arguments = [sys.executable, "-c", AS_NOBODY, *map(str, (pets, out, warm))]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode == 77:
        pytest.skip("this process may not become another user")
    before, errors = done.stderr.split("from here on as ")
    assert not before
    user, errors = errors.split("\n", 1)
    assert user != "0"
    return done.returncode, errors


def test_a_folder_without_permission(maker: Maker, tmp_path: Path) -> None:
    fill(maker, 6)
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0o555)
    code, errors = as_nobody(maker.folder, folder / "out", tmp_path / "warm")
    assert code == 1
    assert errors == (f"Error: permission denied; choose a folder that you may write to ({folder / 'out.building'})\n")
    assert not list(folder.iterdir())


@pytest.mark.parametrize("what", ["images", "images/Bengal_4.jpg", "annotations/trimaps", "annotations/test.txt"])
def test_a_source_without_permission(maker: Maker, tmp_path: Path, what: str) -> None:
    """A picture, a list, a folder: named, with what to do."""
    fill(maker, 6)
    closed, folder = tmp_path / "closed" / "pets", tmp_path / "open"
    shutil.copytree(maker.folder, closed)
    folder.mkdir()
    folder.chmod(0o777)
    warm = tmp_path / "warm"
    if os.geteuid():  # the first build would fail already
        build(closed, warm, options(split="random", samples_per_shard=128))
    (closed / what).chmod(0)
    try:
        code, errors = as_nobody(closed, folder / "out", warm)
    finally:
        (closed / what).chmod(0o755)
    assert code == 1
    assert errors.startswith("Error: ")
    assert len(errors.splitlines()) == 1
    assert f"{closed / what} cannot be read (Permission denied)" in errors
    assert not (folder / "out").exists()
    if not what.endswith(".jpg"):  # else shards of other pictures are kept
        assert not list(folder.iterdir())


def test_two_real_builds_at_once(slow_pets: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with start(slow_pets, out) as first:
        wait_for_a_shard(out, first)
        with start(slow_pets, out) as second:
            _, errors = second.communicate(timeout=60)
        _, first_errors = first.communicate(timeout=60)
    assert first.returncode == 0, first_errors
    # The second one was refused, or found the set complete if the first was done while it waited for the lock.
    assert second.returncode == 0 or "another build is at work" in errors
    assert tree(out) == undisturbed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


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
