"""Files that are intact, but not those that belong there, are told from damaged ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from shard_sources import Maker, fill, options

from pipeline import Loader
from shards.build.build_set import build
from shards.errors import PetsegError
from shards.format.dataset import ShardSet
from shards.verify.check_set import verify
from shards.verify.problems import Mode

MODES: tuple[Mode, ...] = ("quick", "default", "full")


@pytest.fixture(params=["source", "raw"])
def copy(tiny_sets: dict[str, Path], request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_sets[request.param], tmp_path / "set"))


@pytest.fixture(scope="module")
def other_builds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sets of the same number of images, of other names (``source``) and of other pixels of the same names."""
    made = {}
    folder = tmp_path_factory.mktemp("others")
    for storage in ("source", "raw"):
        made[storage] = folder / storage
        build(fill(Maker(folder / f"{storage}-pets"), 30), made[storage], options(storage, seed=9), workers=1)
    changed = Maker(folder / "changed")
    for number, name in enumerate(path.stem for path in sorted((folder / "raw-pets" / "images").iterdir())):
        changed.add(name, seed=number + 500)
    names = sorted(changed.names, key=lambda name: int(name.rpartition("_")[2]))
    changed.lists(test=names[:10], trainval=names[10:])
    made["changed"] = folder / "changed-set"
    build(changed.folder, made["changed"], options("raw"), workers=1)
    return made


def exchange(folder: Path, first: str, second: str) -> None:
    (folder / first).rename(folder / "aside")
    (folder / second).rename(folder / first)
    (folder / "aside").rename(folder / second)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ending", ["tar", "idx"])
@pytest.mark.parametrize("other", ["train-000002", "test-000000"])
def test_shards_that_were_exchanged_are_named(copy: Path, other: str, ending: str, mode: Mode) -> None:
    first, second = f"train-000000.{ending}", f"{other}.{ending}"
    exchange(copy, first, second)
    report = verify(copy, mode=mode)
    if mode == "quick" and not report.problems:  # the index of a tar that has as many samples
        return
    said = {problem.file: problem.message for problem in report.problems if problem.kind == "exchanged"}
    assert f"is {second} of this set" in said[first]
    assert f"is {first} of this set" in said[second]
    assert len(report.problems) == 2
    text = report.text()
    assert "their own names again" in text
    assert "build it again" not in text


@pytest.mark.parametrize("table", ["samples", "shards"])
def test_tables_that_were_exchanged_are_named(copy: Path, table: str) -> None:
    exchange(copy, f"train.{table}.npy", f"test.{table}.npy")
    report = verify(copy)
    said = {problem.file: problem.message for problem in report.problems if problem.kind == "exchanged"}
    assert said.keys() == {f"train.{table}.npy", f"test.{table}.npy"}
    assert f"is test.{table}.npy of this set" in said[f"train.{table}.npy"]
    assert not [problem for problem in report.problems if problem.file.endswith(".tar")]


@pytest.mark.parametrize("storage", ["source", "raw"])
def test_a_shard_of_another_build_is_named(
    tiny_sets: dict[str, Path], other_builds: dict[str, Path], storage: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_sets[storage], tmp_path / "set"))
    for name in ("train-000001.tar", "train-000001.idx"):
        shutil.copy(other_builds[storage] / name, folder / name)
    problems = verify(folder).problems
    assert {(problem.kind, problem.file) for problem in problems} == {
        ("exchanged", "train-000001.tar"),
        ("exchanged", "train-000001.idx"),
    }
    assert all("of another build of this one: its first sample is" in problem.message for problem in problems)


def test_a_shard_of_the_same_names_is_of_another_build(
    tiny_sets: dict[str, Path], other_builds: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_sets["raw"], tmp_path / "set"))
    shutil.copy(other_builds["changed"] / "train-000001.tar", folder / "train-000001.tar")
    first, *others = verify(folder).problems
    assert first.kind == "exchanged"
    assert "none of its samples is as it was packed" in first.message
    assert others, "what is wrong is still named, should it be damage all the same"


def test_a_table_of_another_build_is_named(
    tiny_sets: dict[str, Path], other_builds: dict[str, Path], tmp_path: Path
) -> None:
    """Nothing is said of the tars, which match the table of shards."""
    folder = Path(shutil.copytree(tiny_sets["raw"], tmp_path / "set"))
    shutil.copy(other_builds["raw"] / "train.samples.npy", folder / "train.samples.npy")
    (problem,) = verify(folder).problems
    assert (problem.kind, problem.file) == ("exchanged", "train.samples.npy")
    assert "is intact, but not the one that manifest.json describes" in problem.message


def test_a_damaged_shard_is_no_exchanged_one(copy: Path) -> None:
    path = copy / "train-000000.tar"
    data = bytearray(path.read_bytes())
    for place in (40, 700, len(data) - 3):
        data[place] ^= 8
    path.write_bytes(data)
    kinds = {problem.kind for problem in verify(copy).problems}
    assert "exchanged" not in kinds
    assert {"header", "padding"} <= kinds


def test_reading_says_that_a_shard_was_exchanged(tiny_sets: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_sets["source"], tmp_path / "set"))
    exchange(folder, "train-000000.tar", "train-000001.tar")
    with pytest.raises(PetsegError, match=r"exchanged with another.*petseg-shard verify") as caught:
        ShardSet.open(folder).split("train").read(0, "image")
    assert "build the set again" not in str(caught.value)


def test_a_loader_says_that_a_shard_was_exchanged(tiny_sets: dict[str, Path], tmp_path: Path) -> None:
    """In ``raw`` storage all full tars have the same size."""
    folder = Path(shutil.copytree(tiny_sets["raw"], tmp_path / "set"))
    exchange(folder, "train-000000.tar", "train-000001.tar")
    with pytest.raises(PetsegError, match=r"the tar was exchanged with another one.*petseg-shard verify"):
        list(Loader(folder, split="train", batch_size=4, device="cpu"))
