"""What a build does to OUT: it replaces nothing but a set that it may replace; options that do not go together."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from shard_sources import Maker, fill, options, tree

from shards.build.build_set import BuildResult, StrictError, build
from shards.build.staging import BusyError, Staging
from shards.build.tasks.scheduler_variables import TaskNumber
from shards.build.tasks.set_copy import copy_set
from shards.build.tasks.task_build import build_task
from shards.errors import UsageError
from shards.format.dataset import ShardSet
from shards.sources.synthetic.generate import make_pets


def made(folder: Path, out: Path, **changes: object) -> BuildResult:
    return build(folder, out, options(**changes), workers=1)  # type: ignore[arg-type]


def test_a_second_build_has_nothing_to_do(pets: Path, tmp_path: Path) -> None:
    made(pets, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert made(pets, tmp_path / "out").already_complete
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    with pytest.raises(UsageError, match="use overwrite=True"):
        made(pets, tmp_path / "out", seed=1)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize("exchange", [True, False])
def test_overwrite_swaps_whole_sets(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr("shards.build.staging.rename_specially", lambda *_: False)
    made(pets, tmp_path / "out", samples_per_shard=2)
    made(pets, tmp_path / "expected", seed=5)
    build(pets, tmp_path / "out", options(seed=5), workers=1, overwrite=True)
    assert tree(tmp_path / "out") == tree(tmp_path / "expected")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expected", "out", "pets"]


def test_a_failed_overwrite_leaves_the_old_set(maker: Maker, tmp_path: Path) -> None:
    fill(maker, 6)
    maker.write("unlisted_1", b"", b"")
    made(maker.folder, tmp_path / "out")
    before = tree(tmp_path / "out")
    with pytest.raises(StrictError):
        build(maker.folder, tmp_path / "out", options(seed=5), workers=1, overwrite=True, strict=True)
    assert tree(tmp_path / "out") == before


def test_two_builds_at_once_are_refused(pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shards.build.staging._LOCK_PATIENCE", 0.1)
    with Staging.beside(tmp_path / "out").locked(), pytest.raises(BusyError, match="another build is at work"):
        made(pets, tmp_path / "out")


def test_targets_that_are_something_else_are_left_alone(pets: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        made(pets, tmp_path / "file")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "thesis.doc").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=r"thesis\.doc"):
            build(pets, folder, options(), overwrite=overwrite)
    with pytest.raises(UsageError, match="not empty"):
        made(pets, pets)


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("ending", ["building", "replaced"])
def test_folders_beside_a_set_that_are_the_users_are_left_alone(
    pets: Path, tmp_path: Path, ending: str, finished: bool
) -> None:
    """Also where there is nothing to do but to clean up."""
    out, beside = tmp_path / "out", tmp_path / f"out.{ending}"
    if finished:
        made(pets, out)
    beside.mkdir()
    (beside / "thesis.doc").write_text("mine")
    if finished:
        assert made(pets, out).already_complete
    else:
        with pytest.raises(UsageError, match=f"out.{ending} holds files that no build created"):
            made(pets, out)
    with pytest.raises(UsageError, match="files that no build created"):
        build(pets, out, options(seed=5), workers=1, overwrite=True)
    assert (beside / "thesis.doc").read_text() == "mine"


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("ending", ["building", "replaced"])
def test_a_finished_set_beside_a_set_is_left_alone(pets: Path, tmp_path: Path, ending: str, finished: bool) -> None:
    """Of a city's buildings, say: CITY.building; whatever is done with the set CITY."""
    out, beside = tmp_path / "out", tmp_path / f"out.{ending}"
    if finished:
        made(pets, out)
    made(pets, tmp_path / "other")
    copy_set(tmp_path / "other", beside)
    before = tree(beside)
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=rf"out\.{ending} is a finished set, .*; rename it"):
            build(pets, out, options(), workers=1, overwrite=overwrite)
    with pytest.raises(UsageError, match="is a finished set"):
        copy_set(tmp_path / "other", out, overwrite=True)
    assert tree(beside) == before
    assert {path.name for path in tmp_path.iterdir()} == {"pets", "other", beside.name, *(["out"] if finished else [])}


@pytest.mark.parametrize("ending", ["building", "replaced"])
def test_links_beside_a_set_are_not_followed(pets: Path, tmp_path: Path, ending: str) -> None:
    made(pets, tmp_path / "other")
    before = tree(tmp_path / "other")
    (tmp_path / f"out.{ending}").symlink_to(tmp_path / "other")
    with contextlib.suppress(OSError):
        made(pets, tmp_path / "out", seed=5)
    assert tree(tmp_path / "other") == before


def test_a_folder_that_a_disk_is_mounted_on_is_refused_at_once(pets: Path, tmp_path: Path, small_disk: Any) -> None:
    """No folder can be renamed to it, which an error from the system said when all shards had been built."""
    out = tmp_path / "a disk"
    made(pets, tmp_path / "set")
    with small_disk(out, "8m"):
        for attempt in (
            lambda: made(pets, out),
            lambda: build_task(pets, out, options(), number=TaskNumber(task=0, tasks=1, origin="")),
            lambda: copy_set(tmp_path / "set", out),
            lambda: make_pets(out, count=2, seed=0),
        ):
            with pytest.raises(UsageError, match=r"is mounted there, .*; name a folder in it, such as .*/a disk/NAME"):
                attempt()
            assert not [*out.iterdir()]
        assert {path.name for path in tmp_path.iterdir()} == {"a disk", "pets", "set"}
        made(pets, out / "set")
        shutil.copytree(tmp_path / "set", out, dirs_exist_ok=True)
        shutil.rmtree(out / "set")
        assert copy_set(tmp_path / "set", out).already_complete
        assert made(pets, out).already_complete
        with pytest.raises(UsageError, match=r"is mounted there, .*; unmount it, or choose another folder"):
            copy_set(tmp_path / "set", out, overwrite=True)
        assert ShardSet.open(out).manifest == ShardSet.open(tmp_path / "set").manifest
    (tmp_path / "bound").mkdir()
    mount = ["mount", "--bind", tmp_path / "set", tmp_path / "bound"]
    subprocess.run(mount, check=True)
    try:
        with pytest.raises(UsageError, match="bound: a disk or a folder is mounted there"):
            copy_set(tmp_path / "set", tmp_path / "bound", overwrite=True)
    finally:
        subprocess.run(["umount", tmp_path / "bound"], check=True)


def test_an_empty_folder_and_a_link_are_fine_targets(pets: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    made(pets, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert ShardSet.open(tmp_path / "out").manifest.samples == 30


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"storage": "source", "size": 64}, "storage='jpeg' or storage='raw'"),
        ({"storage": "raw", "quality": 50}, "quality needs storage='jpeg'"),
        ({"storage": "source", "fit": "cover"}, "storage='jpeg' or storage='raw'"),
        ({"storage": "raw", "fit": "squash"}, "fit='squash': choose from stretch, cover, contain"),
        ({"storage": "raw", "size": "96x"}, "size='96x'"),
        ({"max_pixels": 2**29 + 1}, "max_pixels=536870913 is outside"),
        ({"storage": "raw", "size": 0}, "size=0: give N or HxW"),
        ({"storage": "jpeg", "size": 99999}, "size=99999: give N or HxW .* from 1 to 4096"),
        ({"storage": "jpeg", "quality": 101}, "quality=101"),
        ({"samples_per_shard": 0}, "samples_per_shard=0"),
        ({"shard_bytes": "1MB"}, "samples_per_shard and shard_bytes: give one of them"),
        ({"samples_per_shard": None, "shard_bytes": 0}, "shard_bytes=0 is outside"),
        ({"samples_per_shard": None, "shard_bytes": "1PB"}, "shard_bytes='1PB': give a number of bytes"),
        ({"fractions": (0.5, 0.5, 0.0)}, "split='random'"),
        ({"split": "random", "val_fraction": 0.5}, "val_fraction needs"),
        ({"split": "random", "fractions": (0.5, 0.6, 0.0)}, "add up to 1"),
        ({"split": "random", "fractions": (1.5, -0.5, 0.0)}, "from 0 to 1"),
        ({"split": "random", "fractions": (float("nan"), 0.5, 0.5)}, "from 0 to 1"),
        ({"val_fraction": 2.0}, "from 0 to 1"),
        ({"split": "random", "fractions": "xyz"}, "fractions='xyz': give three numbers"),
        ({"split": "random", "fractions": (1.0,)}, "give three numbers"),
        ({"seed": 2**70}, "seed=1180591620717411303424: give a whole number of at most 63 bits"),
        ({"seed": 1.5}, "seed=1.5: give a whole number"),
        ({"samples_per_shard": 2**64}, "samples_per_shard=18446744073709551616: give a whole number"),
        ({"max_pixels": True}, "max_pixels=True: give a whole number"),
    ],
)
def test_options_that_do_not_go_together(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        options(**changes)  # type: ignore[arg-type]
