"""A set that tasks build: the same bytes for any number, order and interruption of them; and what is refused."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from build_processes import killed_at
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory_store import MemoryStore
from shard_sources import Maker, options, tree

from shards.build.build_set import build
from shards.build.options import PackOptions
from shards.build.outcome.build_result import StrictError
from shards.build.tasks import IncompleteError, TaskNumber, TaskResult, build_task, copy_set, join
from shards.build.tasks.parts import Parts
from shards.cli.task_summary import task_text
from shards.errors import FormatError, PetsegError, SourceError, UsageError
from shards.format.manifest import WITHDRAWN, load_manifest

SHARDS = 6
ADDRESS = "s3://bucket/some/set"
REPEATED = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@dataclass(frozen=True)
class Target:
    """A folder or an address, and what is there."""

    out: Path | str
    memory: MemoryStore

    def found(self) -> dict[str, bytes]:
        return tree(self.out) if isinstance(self.out, Path) else self.memory.tree(self.out)

    def clear(self) -> None:
        self.memory.bucket.contents.clear()
        if isinstance(self.out, Path):
            for path in self.out.parent.glob(f"{self.out.name}*"):
                shutil.rmtree(path)

    def nothing_else(self) -> bool:
        """Whether no file is left of how the set was made."""
        if isinstance(self.out, Path):
            return [path.name for path in self.out.parent.glob(f"{self.out.name}*")] == [self.out.name]
        return all(name.startswith(f"{self.out}/") for name in self.memory.bucket.contents)


@pytest.fixture(params=["folder", "store"])
def target(request: pytest.FixtureRequest, tmp_path: Path, memory: MemoryStore, unflushed: None) -> Target:
    return Target(tmp_path / "out" if request.param == "folder" else ADDRESS, memory)


def number(task: int, tasks: int) -> TaskNumber:
    return TaskNumber(task=task, tasks=tasks, origin="")


def run(source: Path, target: Target, chosen: PackOptions, task: int, tasks: int, **named: Any) -> TaskResult:
    return build_task(source, target.out, chosen, number=number(task, tasks), workers=1, **named)


def interrupted(source: Path, target: Target, chosen: PackOptions, task: int, tasks: int, *, after: int) -> None:
    """Run a task that is stopped as soon as so many samples are done."""

    def stop(done: int, _: int) -> None:
        if done >= after:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        run(source, target, chosen, task, tasks, progress=stop)


@REPEATED
@given(data=st.data())
def test_any_number_order_and_interruption(
    data: st.DataObject, gappy: Path, chosen: PackOptions, expected: dict[str, bytes], target: Target
) -> None:
    target.clear()
    tasks = data.draw(st.integers(1, 7), label="tasks")
    before = data.draw(st.lists(st.tuples(st.integers(0, tasks - 1), st.integers(0, 4)), max_size=4), label="stopped")
    order = data.draw(st.permutations(range(tasks)), label="order")
    again = data.draw(st.lists(st.integers(0, tasks - 1), max_size=3), label="again")
    for task, after in before:
        interrupted(gappy, target, chosen, task, tasks, after=after)
    for position, task in enumerate(order):
        if not before and min(order[position:]) < SHARDS:  # else the last shards may be finished already
            with pytest.raises((IncompleteError, UsageError)):
                join(target.out)
        run(gappy, target, chosen, task, tasks)
    for task in again:
        assert run(gappy, target, chosen, task, tasks).audited == 0
    joined = join(target.out)
    assert target.found() == expected
    assert target.nothing_else()
    assert joined.manifest.samples == 9
    assert join(target.out).already_complete
    assert run(gappy, target, chosen, 0, tasks).already_complete
    assert target.found() == expected
    assert target.nothing_else()


def test_what_is_missing_is_named(gappy: Path, chosen: PackOptions, target: Target) -> None:
    with pytest.raises(UsageError, match="there is nothing to join for"):
        join(target.out)
    run(gappy, target, chosen, 1, 4)
    with pytest.raises(IncompleteError, match=r"shards .* have not been built: those of tasks 0, 2, 3 of 4") as caught:
        join(target.out)
    assert caught.value.tasks == (0, 2, 3)
    assert "train-000000.tar" in caught.value.shards
    run(gappy, target, chosen, 0, 3)  # of another division: what is left is named by shard
    with pytest.raises(IncompleteError, match=r"train-00000\d\.tar.*task=0 and tasks=1") as caught:
        join(target.out)
    assert caught.value.tasks is None
    done = run(gappy, target, chosen, 0, 1)
    assert done.resumed == 4
    assert "6 shards of this task" in task_text(done)
    assert "4 of them already finished" in task_text(done)
    join(target.out)


def test_a_shard_that_was_lost_or_cut_is_missing(
    gappy: Path, chosen: PackOptions, target: Target, expected: dict[str, bytes]
) -> None:
    run(gappy, target, chosen, 0, 1)
    parts = Parts.of(target.out)
    claimed = parts.claimed()
    assert claimed is not None
    folder = parts.folder(claimed[0].digest)
    parts.store.delete(f"{folder}train-000001.tar")
    parts.store.put(f"{folder}test-000000.idx", b"cut")
    parts.store.put(f"{folder}val-000000.done", b"no record")
    with pytest.raises(IncompleteError, match=r"3 of 6 shards") as caught:
        join(target.out)
    assert set(caught.value.shards) == {"train-000001.tar", "test-000000.tar", "val-000000.tar"}
    assert run(gappy, target, chosen, 0, 1).resumed == 3
    join(target.out)
    assert target.found() == expected


def test_other_options_are_refused_until_they_replace(gappy: Path, chosen: PackOptions, target: Target) -> None:
    run(gappy, target, chosen, 0, 2)
    other = msgspec.structs.replace(chosen, seed=5)
    with pytest.raises(UsageError, match="unfinished work of another source or other options"):
        run(gappy, target, other, 1, 2)
    assert run(gappy, target, other, 1, 2, overwrite=True).discarded
    assert not run(gappy, target, other, 0, 2, overwrite=True).discarded
    assert join(target.out).manifest.options.seed == 5
    with pytest.raises(UsageError, match="finished set of another source or other options"):
        run(gappy, target, chosen, 0, 1)
    run(gappy, target, chosen, 0, 1, overwrite=True)
    with pytest.raises(UsageError, match="finished set of another source or other options"):
        join(target.out)
    assert join(target.out, overwrite=True).manifest.options.seed == 0
    assert target.nothing_else()


def test_other_libraries_are_refused(
    gappy: Path, chosen: PackOptions, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(gappy, target, chosen, 0, 2)
    real = load_versions = {**json.loads(json.dumps(_versions()))}
    monkeypatch.setattr("shards.build.tasks.task_build.library_versions", lambda: {**load_versions, "pillow": "1.0"})
    with pytest.raises(UsageError, match=re.escape(f"pillow 1.0 instead of {real['pillow']}; the tasks of a set need")):
        run(gappy, target, chosen, 1, 2)


def _versions() -> dict[str, str]:
    from shards.build.outcome.library_versions import library_versions

    return library_versions()


def test_a_source_that_changed_is_packed_again(
    maker: Maker, chosen: PackOptions, target: Target, tmp_path: Path
) -> None:
    for item in range(8):
        maker.add(f"a_{item}")
    run(maker.folder, target, chosen, 0, 1)
    image = maker.folder / "images" / "a_3.jpg"
    data = bytearray(image.read_bytes())
    data[-20] ^= 255
    image.write_bytes(data)  # as many bytes
    assert run(maker.folder, target, chosen, 0, 1).resumed == 3
    join(target.out)
    build(maker.folder, tmp_path / "expected", chosen, workers=1)
    assert target.found() == tree(tmp_path / "expected")


def test_strict_publishes_nothing(gappy: Path, chosen: PackOptions, target: Target, expected: dict[str, bytes]) -> None:
    run(gappy, target, chosen, 0, 1)
    with pytest.raises(StrictError, match="image-unknown-format") as caught:
        join(target.out, strict=True)
    assert caught.value.findings
    assert "manifest.json" not in target.found()
    join(target.out)
    assert target.found() == expected
    with pytest.raises(StrictError, match="was built without strict"):
        join(target.out, strict=True)


def test_a_join_that_is_killed_at_any_step(
    gappy: Path, chosen: PackOptions, expected: dict[str, bytes], in_memory: Path
) -> None:
    out, work = in_memory / "out", in_memory / "kept"
    build_task(gappy, out, chosen, number=number(0, 1), workers=1)
    shutil.copytree(out.with_name("out.tasks"), work)
    step = 1
    while killed_at(step, lambda: join(out)):
        if (out / "manifest.json").exists():
            assert {name: data for name, data in tree(out).items() if not name.startswith(".work")} == expected
        join(out)
        assert tree(out) == expected, step
        assert sorted(path.name for path in in_memory.iterdir()) == ["kept", "out"], step
        shutil.rmtree(out)
        shutil.copytree(work, out.with_name("out.tasks"))
        step += 1
    assert step > 30


@pytest.mark.parametrize("error", [KeyboardInterrupt(), PetsegError("the store failed")])
def test_a_store_that_fails_at_any_change(
    gappy: Path, chosen: PackOptions, expected: dict[str, bytes], memory: MemoryStore, error: BaseException
) -> None:
    """Tasks and join are interrupted once, and repeated; a finished set that is replaced stays until all is there."""
    target = Target(ADDRESS, memory)
    bucket = memory.bucket
    run(gappy, target, chosen, 0, 1)
    join(ADDRESS)
    old = memory.tree(ADDRESS)
    other = msgspec.structs.replace(chosen, seed=5)
    step, states = 0, set()
    while True:
        bucket.left, bucket.error = step, error
        try:
            run(gappy, target, other, 0, 1, overwrite=True)
            join(ADDRESS, overwrite=True)
            bucket.left = None
            break
        except type(error):
            found = {name: data for name, data in memory.tree(ADDRESS).items() if not name.startswith(".work/")}
            published = not found["manifest.json"].startswith(WITHDRAWN)
            states.add("old" if found == old else "published" if published else "none")
            if published and found != old:
                assert json.loads(found["manifest.json"])["options"]["seed"] == 5
        run(gappy, target, other, 0, 1, overwrite=True)
        join(ADDRESS, overwrite=True)
        assert target.nothing_else()
        assert not [name for name in memory.tree(ADDRESS) if name.startswith(".work")]
        assert json.loads(memory.tree(ADDRESS)["manifest.json"])["options"]["seed"] == 5
        bucket.contents = {f"{ADDRESS}/{name}": data for name, data in old.items()}
        step += 3
    assert states - {"published"} == {"old", "none"}
    assert "published" in states or isinstance(error, PetsegError)  # which is none where only its work is cleared away
    assert step > 30


def test_two_joins_at_once(gappy: Path, chosen: PackOptions, expected: dict[str, bytes], target: Target) -> None:
    run(gappy, target, chosen, 0, 1)
    failed: list[Exception] = []

    def try_to_join() -> None:
        try:
            join(target.out)
        except PetsegError as error:
            failed.append(error)

    threads = [threading.Thread(target=try_to_join) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert target.found() == expected
    assert target.nothing_else()


def test_a_folder_that_is_no_work_of_tasks_is_left_alone(gappy: Path, chosen: PackOptions, tmp_path: Path) -> None:
    (tmp_path / "out.tasks").mkdir()
    (tmp_path / "out.tasks" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"files that no build created \(notes\.txt\)"):
        build_task(gappy, tmp_path / "out", chosen, number=number(0, 1), workers=1)
    assert (tmp_path / "out.tasks" / "notes.txt").read_text() == "mine"


def test_labels_that_do_not_fit_end_a_task_and_a_join(maker: Maker, target: Target) -> None:
    for item in range(6):
        maker.add(f"a_{item}")
    wrong = options(split="random", samples_per_shard=2, labels=None)
    from shards.format.label_files import find_labels

    wrong = msgspec.structs.replace(wrong, labels=find_labels("binary"))
    with pytest.raises(UsageError, match="the labels do not fit the masks"):
        run(maker.folder, target, wrong, 0, 1)


def test_a_vanished_image_ends_a_task(gappy: Path, chosen: PackOptions, target: Target, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(gappy, copy)
    from shards.sources import scan

    found = scan(copy)
    (copy / "images" / "a_4.jpg").unlink()
    with pytest.raises(SourceError, match=r"a_4\.jpg vanished"):
        build_task(found, target.out, chosen, number=number(0, 1), workers=1)


def test_the_manifest_of_joined_tasks_has_their_versions(gappy: Path, chosen: PackOptions, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build_task(gappy, out, chosen, number=number(0, 1), workers=1)
    join(out)
    assert load_manifest(out).versions == _versions()


@pytest.mark.parametrize("inside", ["x", "deep/er/x"])
def test_no_set_is_written_into_another_one(
    tiny_sets: dict[str, Path], gappy: Path, chosen: PackOptions, memory: MemoryStore, inside: str
) -> None:
    copy_set(tiny_sets["jpeg"], ADDRESS)
    before = memory.tree(ADDRESS)
    out = f"{ADDRESS}/{inside}"
    for write in (
        lambda: copy_set(tiny_sets["raw"], out),
        lambda: build(gappy, out, chosen, workers=1),
        lambda: build_task(gappy, out, chosen, number=number(0, 2), workers=1),
    ):
        with pytest.raises(UsageError, match=f"{ADDRESS} is a shard set, which keeps its folder to itself"):
            write()
    assert memory.tree(ADDRESS) == before


def at(*path: Any) -> Any:
    """Return a function that sets a value of nested containers."""
    *keys, last, value = path

    def change(document: Any) -> None:
        for key in keys:
            document = document[key]
        document[last] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        at("rows", b"123"), at("rows", b""), at("samples", 2**62), at("samples", -1), at("repaired", -1),
        at("pixels", [1, 2]), at("pixels", [-5] * 256), at("unclaimed", {"\x1b[31m": [1, 1]}), at("stamps", []),
        at("tar", "file", "../../x"), at("split", "test"), at("number", 7), at("palettes", {300: {"x": 5}}),
        at("findings", [{"name": "x", "action": "rejected", "reason": "nonsense"}]), at("attributes", {"a": {"b": -1}}),
        None,
    ],
)  # fmt: skip
def test_a_record_that_contradicts_itself_is_none(
    gappy: Path, chosen: PackOptions, target: Target, expected: dict[str, bytes], change: Any
) -> None:
    run(gappy, target, chosen, 0, 1)
    parts = Parts.of(target.out)
    claim = parts.claimed()
    assert claim is not None
    name = f"{parts.folder(claim[0].digest)}val-000000.done"
    data = b"\x91" * 100_000
    if change is not None:
        document = msgspec.msgpack.decode(parts.store.read(name))
        change(document)
        data = msgspec.msgpack.encode(document)
    parts.store.put(name, data)
    with pytest.raises(IncompleteError, match=r"1 of 6 shards .* have not been built"):
        join(target.out)
    run(gappy, target, chosen, 0, 1)
    join(target.out)
    assert target.found() == expected


@pytest.mark.parametrize(
    "change",
    [
        at("outline", "shards", []), at("outline", "digest", "../../x"), at("outline", "found", -5),
        at("outline", "shards", [["train", 0, 1], ["train", 0, 1]]), at("outline", "shards", [["train", -1, 1]]),
    ],
)  # fmt: skip
def test_a_plan_that_contradicts_itself_is_damaged(
    gappy: Path, chosen: PackOptions, target: Target, change: Any
) -> None:
    run(gappy, target, chosen, 0, 1)
    parts = Parts.of(target.out)
    document = msgspec.msgpack.decode(parts.store.read(f"{parts.prefix}plan"))
    change(document)
    parts.store.put(f"{parts.prefix}plan", msgspec.msgpack.encode(document))
    with pytest.raises(FormatError, match=r"plan is damaged, or of another version .* build again"):
        join(target.out)
