"""Commands that publish at one address at the same time: a whole one runs before each step of another one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import pytest
from memory_store import MemoryStore
from shard_sources import tree

from shards.build.build_set import build
from shards.build.options import PackOptions
from shards.build.tasks import TaskNumber, build_task, copy_set, join
from shards.build.tasks.parts import Parts
from shards.errors import PetsegError

ADDRESS = "s3://bucket/some/set"
ALONE = TaskNumber(task=0, tasks=1, origin="")


@dataclass(frozen=True)
class Sets:
    """Folders of finished sets, and what made them."""

    source: Path
    ours: Path
    other: Path
    chosen: PackOptions
    chosen_otherwise: PackOptions


@pytest.fixture(scope="module")
def sets(gappy: Path, chosen: PackOptions, tmp_path_factory: pytest.TempPathFactory) -> Sets:
    folder = tmp_path_factory.mktemp("sets")
    otherwise = msgspec.structs.replace(chosen, seed=5, samples_per_shard=1)
    for name, options in (("ours", chosen), ("other", otherwise)):
        build(gappy, folder / name, options, workers=1)
    return Sets(gappy, folder / "ours", folder / "other", chosen, otherwise)


@pytest.fixture(autouse=True)
def in_order(monkeypatch: pytest.MonkeyPatch, unflushed: None) -> None:
    """Each command makes its changes one after another."""
    for module in ("publish_in_store", "set_copy", "parts"):
        monkeypatch.setattr(f"shards.build.tasks.{module}.CONCURRENT", 1)


def command(name: str, sets: Sets, *, overwrite: bool) -> Callable[[], object]:
    named = {"workers": 1, "overwrite": overwrite}
    return {
        "join": partial(join, ADDRESS, overwrite=overwrite),
        "copy": partial(copy_set, sets.ours, ADDRESS, overwrite=overwrite),
        "build": partial(build, sets.source, ADDRESS, sets.chosen, **named),  # type: ignore[arg-type]
    }[name]


@pytest.mark.faults
@pytest.mark.parametrize("overwrite", [False, True], ids=["new", "overwrite"])
@pytest.mark.parametrize(
    ("name", "other"), [("join", False), ("copy", False), ("build", False), ("join", True), ("copy", True)]
)
def test_another_command_before_any_step(
    name: str, other: bool, overwrite: bool, sets: Sets, memory: MemoryStore, campaign: Callable[[int, int], int]
) -> None:
    """The same one: both succeed. Another one that replaces it: its set is whole, whatever the first one still does."""
    bucket, expected = memory.bucket, tree(sets.other if other else sets.ours)
    if overwrite:
        copy_set(sets.other, ADDRESS)
    elif (name, other) == ("copy", True):
        pytest.skip("a file that is being written to its final name cannot be taken back")
    if name == "join":
        build_task(sets.source, ADDRESS, sets.chosen, number=ALONE, workers=1, overwrite=overwrite)
    first = second = command(name, sets, overwrite=overwrite)
    if other:
        second = partial(build, sets.source, ADDRESS, sets.chosen_otherwise, workers=1, overwrite=True)
    prepared, step, failures = dict(bucket.contents), int(other), 0  # of others, not before the claim
    while True:
        bucket.contents, bucket.left, bucket.action = dict(prepared), step, second
        try:
            first()
        except PetsegError:
            failures += 1
            assert other, step
        if bucket.left is not None:
            bucket.left = None
            break
        found = memory.tree(ADDRESS)
        assert {name: data for name, data in found.items() if not name.startswith(".work/")} == expected, step
        assert other or found.keys() == expected.keys(), step
        step += campaign(4, 1)
    assert step > 8
    assert not other or failures > 2


@pytest.mark.parametrize("look", ["claimed", "published"])
def test_another_join_ends_while_one_begins(
    look: str, sets: Sets, memory: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_task(sets.source, ADDRESS, sets.chosen, number=ALONE, workers=1)
    real = getattr(Parts, look)

    def late(parts: Parts, **options: bool) -> object:
        monkeypatch.setattr(Parts, look, real)
        join(ADDRESS)
        return real(parts, **options)

    monkeypatch.setattr(Parts, look, late)
    assert join(ADDRESS).already_complete
    assert memory.tree(ADDRESS) == tree(sets.ours)
