"""Builds that are killed at any moment: nothing half finished is published, no finished shard is lost."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from build_processes import killed_at, killed_build, start, wait_for_a_shard
from shard_sources import SCENES, Maker, fill_scenes, options, tree

from shards.build.build_set import BuildResult, StrictError, build
from shards.cli.build_summary import build_text
from shards.format.dataset import ShardSet


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
    slow_source: Any,
    tmp_path: Path,
    campaign: Callable[[int, int], int],
    record_property: Callable[[str, object], None],
) -> None:
    """The kills are aimed at each stage of a build in turn; each must be hit, whatever the machine's speed."""
    rng = random.Random(5)
    out, work = tmp_path / "out", tmp_path / "out.building" / ".work"
    aims: list[Callable[[], bool]] = [
        lambda: any(work.glob("*.done")),
        (work / "plan").exists,
        lambda: (work.parent / "manifest.json").exists() or out.exists(),
    ]
    found: Counter[str] = Counter()
    for number in range(campaign(4, 100)):
        with killed_build(slow_source.folder, out, **slow_source.chosen) as process:
            while not aims[number % 3]() and process.is_alive():
                time.sleep(0.0002)
            time.sleep(rng.uniform(0, (0.3, 0.03, 0.003)[number % 3]))
        found[stage(out)] += 1
        if out.exists():
            assert (out / "manifest.json").exists()
        build(slow_source.folder, out, options(**slow_source.chosen), workers=1)
        assert tree(out) == slow_source.expected
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
        shutil.rmtree(out)
    record_property("kills", dict(found))
    print("kills by stage:", dict(found))  # noqa: T201 - shown with pytest -rP
    assert found["some shards"] > 0
    if campaign(0, 1):
        assert min(found[name] for name in ("no shard yet", "some shards")) >= 10, found
        assert found["complete"] + found["cleaning up"] >= 3, found


@pytest.mark.parametrize("kind", ["new", "overwrite", "empty shards", "21 classes"])
def test_killed_at_every_step(in_memory: Path, kind: str, campaign: Callable[[int, int], int]) -> None:
    """Before each flush, rename and removal in turn, to the last of the clean-up.

    Without --campaign, every other step of a new set, and the steps between them of one with empty shards.
    """
    if kind == "21 classes" and not campaign(0, 1):
        pytest.skip("with --campaign: the same steps")
    if kind == "21 classes":
        source, more = fill_scenes(in_memory / "pets", 6), SCENES
    else:
        maker, more = Maker(in_memory / "pets"), {"split": "random"}
        source = maker.folder
        for number in range(6):
            broken = kind == "empty shards" and number % 2
            maker.add(f"a_{number}", image=b"broken" if broken else None)
    samples_per_shard = 1 if kind == "empty shards" else 2
    chosen = options(fractions=(0.5, 0.0, 0.5), samples_per_shard=samples_per_shard, **more)
    build(source, in_memory / "expected", chosen, workers=1)
    expected = tree(in_memory / "expected")
    build(source, in_memory / "old", options(seed=9, **more), workers=1)
    old = tree(in_memory / "old")
    every = campaign(1 if kind == "overwrite" else 2, 1)
    out, step, resumed = in_memory / "out", 1 - every if kind == "new" else 0, 0
    while True:
        step += every
        if kind == "overwrite":
            shutil.copytree(in_memory / "old", out)
        overwrite = kind == "overwrite"
        command = partial(build, source, out, chosen, workers=1, overwrite=overwrite)
        killed = killed_at(step, command)
        if (out / "manifest.json").exists():
            visible = {name: data for name, data in tree(out).items() if not name.startswith(".work")}
            assert visible == expected or (kind == "overwrite" and visible == old)
        elif kind == "overwrite":
            pytest.fail(f"no set at all after a kill at step {step}")
        records = len(list((in_memory / "out.building" / ".work").glob("*.done")))
        complete = (in_memory / "out.building" / "manifest.json").exists()
        built = command()
        assert built.resumed == (0 if complete else records) or built.already_complete or kind == "overwrite"
        resumed = max(resumed, built.resumed)
        assert tree(out) == expected, f"step {step}"
        assert sorted(path.name for path in in_memory.iterdir()) == ["expected", "old", "out", "pets"], f"step {step}"
        shutil.rmtree(out)
        if not killed:
            break
    assert step > 20
    assert resumed >= 3


def test_other_builds_after_a_kill_at_the_end(in_memory: Path) -> None:
    """Killed while it swaps or cleans up; then another set, and a strict one, is asked for."""
    maker = Maker(in_memory / "pets")
    for number in range(4):
        maker.add(f"a_{number}")
    out = in_memory / "out"

    def command(seed: int, *, strict: bool = False) -> Callable[[], BuildResult]:
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
            assert sorted(path.name for path in in_memory.iterdir()) == ["out", "pets"]
            command(1)()
        else:
            shutil.rmtree(in_memory / "out.building", ignore_errors=True)  # start again, not resume
    assert swapped > 5


def test_strict_after_a_kill_of_a_build_that_was_not(in_memory: Path) -> None:
    maker = Maker(in_memory / "pets")
    for number in range(4):
        maker.add(f"a_{number}", image=b"broken" if number == 2 else None)
    chosen, out = options(split="random"), in_memory / "out"
    step = 1
    while killed_at(step, partial(build, maker.folder, out, chosen, workers=1)):
        complete = (in_memory / "out.building" / "manifest.json").exists()
        if complete or out.exists():
            with pytest.raises(StrictError):
                build(maker.folder, out, chosen, workers=1, strict=True)
            assert complete != out.exists()
        for folder in (out, in_memory / "out.building"):
            if folder.exists():
                shutil.rmtree(folder)
        step += 1
    assert step > 10


def test_a_resumed_build_keeps_finished_shards(slow_pets: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with killed_build(slow_pets, out) as process:
        wait_for_a_shard(out, process.is_alive)
    work = tmp_path / "out.building" / ".work"
    kept = {path.stem: path.with_suffix(".tar").stat().st_ino for path in work.glob("*.done")}
    assert kept
    built = build(slow_pets, out, options(), workers=1)
    assert built.resumed == len(kept)
    assert f"resumed with {len(kept)} shard" in build_text(built)
    for stem, inode in kept.items():
        assert (out / f"{stem}.tar").stat().st_ino == inode
    assert tree(out) == undisturbed


def test_a_damaged_finished_shard_is_built_again(
    slow_pets: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with killed_build(slow_pets, out) as process:
        wait_for_a_shard(out, process.is_alive)
    work = tmp_path / "out.building" / ".work"
    victim = next(work.glob("*.done")).with_suffix(".tar")
    with victim.open("r+b") as handle:
        handle.write(b"damage")
    build(slow_pets, out, options(), workers=1)
    assert tree(out) == undisturbed


def test_other_options_start_again_and_say_so(slow_pets: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with killed_build(slow_pets, out) as process:
        wait_for_a_shard(out, process.is_alive)
    built = build(slow_pets, out, options(seed=3), workers=1)
    assert "unfinished work of another source or other options was discarded" in build_text(built)
    assert ShardSet.open(out).manifest.options.seed == 3


def test_two_real_builds_at_once(slow_pets: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with start(slow_pets, out) as first:
        wait_for_a_shard(out, lambda: first.poll() is None)
        with start(slow_pets, out) as second:
            _, errors = second.communicate(timeout=60)
        _, first_errors = first.communicate(timeout=60)
    assert first.returncode == 0, first_errors
    # The second one was refused, or found the set complete if the first was done while it waited for the lock.
    assert second.returncode == 0 or "another build is at work" in errors
    assert tree(out) == undisturbed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
