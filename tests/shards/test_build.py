"""A set as a function of its source: the same bytes from any machine, and everything that is told on the way."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import NoReturn

import numpy as np
import pytest
from shard_sources import Maker, encoded, options, picture, tree, trimap

import shards.build.executors
from shards.audit.findings import REASONS
from shards.build.build_set import Built, StrictError, build
from shards.build.plan import ShardTask
from shards.build.staging import BusyError, Staging
from shards.build.write_shard import ShardRecord, build_shard
from shards.errors import SourceError, UsageError
from shards.format.dataset import ShardSet

AWKWARD = ["my cat 1", "a.b.c_2", "Käse_3", "猫_4", "-rf_5", "..\\..\\up_6", "..", "x" * 250, "tab\there_7"]


def made(folder: Path, out: Path, **changes: object) -> Built:
    return build(folder, out, options(**changes), workers=1)  # type: ignore[arg-type]


def test_samples_are_what_the_source_holds(tiny_pets: Path, tiny_sets: dict[str, Path]) -> None:
    opened = ShardSet.open(tiny_sets["source"])
    names = []
    for split in opened.manifest.splits:
        reader = opened.split(split)
        for index in range(len(reader)):
            meta = reader.meta(index)
            names.append(meta["name"])
            assert meta["split"] == split
            assert reader.read(index, "image") == (tiny_pets / "images" / f"{meta['name']}.jpg").read_bytes()
            trimaps = tiny_pets / "annotations" / "trimaps"
            assert reader.read(index, "trimap") == (trimaps / f"{meta['name']}.png").read_bytes()
            row = reader.rows([index])[0]
            assert (row["width"], row["height"]) == (meta["width"], meta["height"]) == (60, 44)
    assert sorted(names) == sorted(path.stem for path in (tiny_pets / "images").iterdir())


def test_samples_stand_mixed(tiny_sets: dict[str, Path]) -> None:
    reader = ShardSet.open(tiny_sets["source"]).split("train")
    keys = [reader.key(index) for index in range(len(reader))]
    assert keys != sorted(keys)


ELSEWHERE = """
import os, sys
os.umask(0o077)
real = os.scandir
class Reversed:
    def __init__(self, path): self.entries = list(real(path))[::-1]
    def __enter__(self): return iter(self.entries)
    def __exit__(self, *_): pass
os.scandir = Reversed
from pathlib import Path
from shards.build.build_set import build
sys.path.insert(0, sys.argv[4])
from shard_sources import options
build(Path(sys.argv[1]), Path(sys.argv[3]), options("jpeg"), workers=4)  # imports all that root alone may read
if len(sys.argv) > 5:
    os.setgid(65534); os.setuid(65534)
for storage in ("source", "jpeg", "raw"):
    build(Path(sys.argv[1]), Path(sys.argv[2]) / storage, options(storage), workers=4)
"""


def test_the_same_bytes_anywhere(tiny_pets: Path, tiny_sets: dict[str, Path], tmp_path: Path) -> None:
    """Four workers, the folder read backwards, another time zone, umask, user, working folder and hash seed."""
    out = tmp_path / "elsewhere"
    out.mkdir()
    copy = tmp_path / "copied pets"
    shutil.copytree(tiny_pets, copy)  # other times of change, another path
    arguments = [
        sys.executable,
        "-c",
        ELSEWHERE,
        str(copy),
        str(out),
        str(tmp_path / "warm"),
        str(Path(__file__).parent),
    ]
    for folder in (tmp_path, *tmp_path.parents):
        if os.getuid() == 0 and folder.stat().st_uid == 0 and folder != Path("/") and folder != Path("/tmp"):
            folder.chmod(0o755)
    if os.getuid() == 0:
        os.chown(out, 65534, 65534)
        arguments.append("as nobody")
    environment = {**os.environ, "TZ": "Pacific/Kiritimati", "PYTHONHASHSEED": "7", "LC_ALL": "C", "HOME": "/nowhere"}
    subprocess.run(arguments, check=True, env=environment, cwd="/", timeout=120)
    for storage, folder in tiny_sets.items():
        assert tree(folder) == tree(out / storage)
        assert {path.stat().st_mode & 0o777 for path in (out / storage).iterdir()} == {0o644}


def test_nothing_about_the_machine_is_in_a_set(tiny_pets: Path, tiny_sets: dict[str, Path]) -> None:
    text = (tiny_sets["raw"] / "manifest.json").read_text()
    assert str(tiny_pets) not in text
    assert os.uname().nodename not in text
    assert "workers" not in text


def test_another_executor_can_take_the_processes_place(
    tiny_pets: Path, tiny_sets: dict[str, Path], tmp_path: Path
) -> None:
    with ThreadPoolExecutor(3) as executor:
        build(tiny_pets, tmp_path / "out", options(), executor=executor)
    assert tree(tmp_path / "out") == tree(tiny_sets["source"])


FAULTS = """
import resource
import numpy as np
from shards.build.executors import pool

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        pictures = [np.ones(1 << 20, np.uint8) for _ in range(3)]
        del pictures
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with pool(1, 1) as own:
    print(own.executor.submit(faults).result())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told to keep memory")
def test_our_processes_keep_the_memory_of_a_picture_for_the_next() -> None:
    """Three pictures of a MiB are 768 pages; given back each time, as by itself, they would be faulted in 100 times."""
    found = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, timeout=60, check=True)
    assert int(found.stdout) < 10 * 768


class Watched(ThreadPoolExecutor):
    """An executor of somebody else: is Ctrl-C held while work is handed to it? The third shard is not taken."""

    def __init__(self) -> None:
        super().__init__(1)
        self.held: list[bool] = []
        self.futures: list[Future[object]] = []
        self.go_on = Event()
        self.submit_for_real(self.go_on.wait)

    def submit_for_real(self, *work: object) -> Future[object]:
        return super().submit(*work)  # type: ignore[arg-type]

    def submit(self, *work: object) -> Future[object]:  # type: ignore[override]
        self.held.append(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        if len(self.held) == 3:
            raise KeyboardInterrupt
        self.futures.append(self.submit_for_real(*work))
        return self.futures[-1]


def test_ctrl_c_reaches_a_build_that_hands_its_work_to_another_executor(tiny_pets: Path, tmp_path: Path) -> None:
    executor = Watched()
    with pytest.raises(KeyboardInterrupt):
        build(tiny_pets, tmp_path / "out", options(), executor=executor)
    assert executor.held == [False] * 3
    assert [future.cancelled() for future in executor.futures] == [True, True]  # nothing is left for it to do
    executor.go_on.set()
    executor.shutdown()


def test_ctrl_c_waits_while_our_own_processes_are_started(
    tiny_pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []

    def submit(executor: ProcessPoolExecutor, *work: object) -> Future[object]:
        held.append(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        return plain(executor, *work)  # type: ignore[arg-type]

    plain = ProcessPoolExecutor.submit
    monkeypatch.setattr(ProcessPoolExecutor, "submit", submit)
    build(tiny_pets, tmp_path / "out", options(), workers=2)
    assert held
    assert all(held)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


THREADED = """
import sys, threading
from pathlib import Path
from shards.build.build_set import build
sys.path.insert(0, sys.argv[3])
from shard_sources import options
if __name__ == "__main__":
    done = threading.Event()
    threading.Thread(target=done.wait).start()
    build(Path(sys.argv[1]), Path(sys.argv[2]), options(), workers=2)
    done.set()
"""


def test_a_process_with_threads_is_not_forked(tiny_pets: Path, tiny_sets: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(THREADED)
    arguments = [tmp_path / "script.py", tiny_pets, tmp_path / "out", Path(__file__).parent]
    subprocess.run([sys.executable, *map(str, arguments)], check=True, timeout=120)
    assert tree(tmp_path / "out") == tree(tiny_sets["source"])


def test_workers_do_not_import_torch() -> None:
    code = "import sys, shards.build.executors, shards.build.build_set; print([m for m in sys.modules if m in ('torch', 'nvidia')])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_awkward_names_are_packed_and_found_again(maker: Maker, tmp_path: Path) -> None:
    for name in AWKWARD:
        maker.add(name)
    built = made(maker.folder, tmp_path / "out", split="random", fractions=(1.0, 0.0, 0.0))
    assert built.manifest.samples == len(AWKWARD)
    reader = ShardSet.open(tmp_path / "out").split("train")
    for number, name in enumerate(AWKWARD):
        index = reader.find(name)
        assert index is not None, name
        assert reader.meta(index)["name"] == name
        assert reader.find(reader.key(index)) == index
        assert reader.read(index, "image") == encoded(picture(number), "JPEG", quality=90)
    assert reader.find("nobody") is None


def test_names_that_no_file_system_allows(tiny_pets: Path, tmp_path: Path) -> None:
    """From Python, a source may name its pairs as it likes."""
    from dataclasses import replace

    import msgspec

    from shards.sources.pets import scan

    names = ["../../etc/passwd", "a/b", "y" * 300, " ", "\n"]
    found = scan(tiny_pets)
    pairs = tuple(msgspec.structs.replace(p, name=n) for p, n in zip(found.pairs, names, strict=False))
    source = replace(found, pairs=pairs, lists={}, notes=())
    build(source, tmp_path / "out", options(split="random", fractions=(0, 0, 1)), workers=1)
    reader = ShardSet.open(tmp_path / "out").split("test")
    assert sorted(reader.meta(index)["name"] for index in range(len(reader))) == sorted(names)
    assert all(reader.find(name) is not None for name in names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def faulty(maker: Maker) -> Path:
    for number in range(6):
        maker.add(f"a_{number}")
    maker.add("cut_1", image=encoded(picture(1), "JPEG")[:-30])
    maker.add("png_1", image=encoded(picture(77), "PNG"))
    maker.add("nobody_1", mask=encoded(np.full((44, 60), 2, np.uint8), "PNG"))
    maker.add("twin_1", seed=0)  # the same picture as a_0
    maker.lists(test=["a_0", "a_1", "png_1", "missing_1"], trainval=["twin_1", *maker.names[2:7], "nobody_1"])
    (maker.folder / "images" / "x.mat").write_bytes(b"")
    return maker.folder


def test_findings_are_counted_and_written_down(maker: Maker, tmp_path: Path) -> None:
    built = made(faulty(maker), tmp_path / "out", val_fraction=0.0)
    audit = built.manifest.audit
    assert (audit.found, audit.packed, audit.mended, audit.left_out) == (11, 9, 1, 2)
    assert built.ignored == 1
    lines = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert [(line["name"], line["action"], line["reason"], line["split"]) for line in lines] == [
        ("a_0", "remark", "duplicate-across-splits", "test"),
        ("cut_1", "left-out", "picture-truncated", "train"),
        ("missing_1", "left-out", "listed-but-missing", None),
        ("nobody_1", "remark", "no-animal", "train"),
        ("png_1", "mended", "picture-wrong-type", "test"),
        ("twin_1", "remark", "duplicate-across-splits", "train"),
    ]
    assert "a_0 in test" in lines[-1]["detail"]
    assert audit.reasons == {
        "duplicate-across-splits": 2,
        "listed-but-missing": 1,
        "no-animal": 1,
        "picture-truncated": 1,
        "picture-wrong-type": 1,
    }
    assert set(audit.reasons) <= set(REASONS)


def test_strict_builds_nothing(maker: Maker, tmp_path: Path) -> None:
    faulty(maker)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(StrictError, match="1 picture-truncated") as caught:
        build(maker.folder, tmp_path / "out", options(), workers=1, strict=True)
    assert len(caught.value.notes) == 6
    assert sorted(tmp_path.iterdir()) == before


def test_strict_passes_a_clean_source(pets: Path, tmp_path: Path) -> None:
    build(pets, tmp_path / "out", options(), workers=1, strict=True)


def test_counts_are_those_of_the_samples(tiny_pets: Path, tiny_sets: dict[str, Path]) -> None:
    from PIL import Image

    for split in ShardSet.open(tiny_sets["source"]).manifest.splits.values():
        assert sum(split.breeds.values()) == sum(split.species.values()) == split.samples
    total = np.zeros(4, np.int64)
    for path in (tiny_pets / "annotations" / "trimaps").iterdir():
        total += np.bincount(np.asarray(Image.open(path)).reshape(-1), minlength=4)
    splits = ShardSet.open(tiny_sets["source"]).manifest.splits.values()
    assert np.sum([split.class_pixels for split in splits], axis=0).tolist() == total[1:].tolist()


def test_a_second_build_has_nothing_to_do(pets: Path, tmp_path: Path) -> None:
    made(pets, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert made(pets, tmp_path / "out").already
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    with pytest.raises(UsageError, match="use --overwrite"):
        made(pets, tmp_path / "out", seed=1)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize("exchange", [True, False])
def test_overwrite_swaps_whole_sets(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr("shards.build.staging._exchange", lambda first, second: False)
    made(pets, tmp_path / "out", samples_per_shard=2)
    made(pets, tmp_path / "expected", seed=5)
    build(pets, tmp_path / "out", options(seed=5), workers=1, overwrite=True)
    assert tree(tmp_path / "out") == tree(tmp_path / "expected")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expected", "out", "pets"]


def test_a_failed_overwrite_leaves_the_old_set(maker: Maker, tmp_path: Path) -> None:
    faulty(maker)
    made(maker.folder, tmp_path / "out")
    before = tree(tmp_path / "out")
    with pytest.raises(StrictError):
        build(maker.folder, tmp_path / "out", options(seed=5), workers=1, overwrite=True, strict=True)
    assert tree(tmp_path / "out") == before


def test_shards_without_samples_leave_no_gap(maker: Maker, tmp_path: Path) -> None:
    for number in range(12):
        maker.add(f"a_{number}", image=b"broken" if number % 3 else None)
    built = made(maker.folder, tmp_path / "out", split="random", fractions=(1, 0, 0), samples_per_shard=1)
    entry = built.manifest.splits["train"]
    assert [shard.file for shard in entry.shards] == [f"train-{number:06d}.tar" for number in range(4)]
    reader = ShardSet.open(tmp_path / "out").split("train")
    assert sorted(reader.key(index) for index in range(4)) == ["a_0", "a_3", "a_6", "a_9"]


def test_all_samples_broken_is_an_error(maker: Maker, tmp_path: Path) -> None:
    maker.add("a_1", image=b"broken")
    with pytest.raises(UsageError, match="no sample passed the audit: 1 picture-unknown-format"):
        made(maker.folder, tmp_path / "out", split="random")
    assert not list(tmp_path.glob("out*"))


def test_two_builds_at_once_are_refused(pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shards.build.staging._LOCK_PATIENCE", 0.1)
    with Staging.beside(tmp_path / "out").locked(), pytest.raises(BusyError, match="another build is at work"):
        made(pets, tmp_path / "out")


def test_a_source_that_changes_is_noticed(pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from shards.build import prepare

    victim = next((pets / "images").iterdir())
    real = prepare.audit_pair
    calls = []

    def change_the_next(*arguments: object, **named: object) -> object:
        calls.append(1)
        if len(calls) == 1:
            for path in (pets / "images").iterdir():
                path.write_bytes(path.read_bytes() + b"x")
        return real(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(prepare, "audit_pair", change_the_next)
    with pytest.raises(SourceError, match="changed while the set was being built; run the same command again"):
        made(pets, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))
    victim.unlink()


def test_a_source_that_vanishes_is_noticed(pets: Path, tmp_path: Path) -> None:
    from shards.sources.pets import scan

    found = scan(pets)
    (pets / "images" / "Bengal_4.jpg").unlink()
    with pytest.raises(SourceError, match=r"Bengal_4\.jpg vanished"):
        build(found, tmp_path / "out", options(), workers=1)


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
    building = tmp_path / "out.building"
    building.mkdir()
    (building / "thesis.doc").write_text("mine")
    with pytest.raises(UsageError, match="files of somebody else"):
        made(pets, tmp_path / "out")
    assert (building / "thesis.doc").read_text() == "mine"


def test_an_empty_folder_and_a_link_are_fine_targets(pets: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    made(pets, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert ShardSet.open(tmp_path / "out").manifest.samples == 30


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"storage": "source", "size": 64}, "--storage jpeg or raw"),
        ({"storage": "raw", "quality": 50}, "--quality needs --storage jpeg"),
        ({"storage": "raw", "size": 0}, "--size 0"),
        ({"storage": "jpeg", "size": 99999}, "--size 99999"),
        ({"storage": "jpeg", "quality": 101}, "--quality 101"),
        ({"samples_per_shard": 0}, "--samples-per-shard 0"),
        ({"fractions": (0.5, 0.5, 0.0)}, "--split random"),
        ({"split": "random", "val_fraction": 0.5}, "--val-fraction needs"),
        ({"split": "random", "fractions": (0.5, 0.6, 0.0)}, "add up to 1"),
        ({"split": "random", "fractions": (1.5, -0.5, 0.0)}, "between 0 and 1"),
        ({"split": "random", "fractions": (float("nan"), 0.5, 0.5)}, "between 0 and 1"),
        ({"val_fraction": 2.0}, "between 0 and 1"),
    ],
)
def test_options_that_make_no_sense(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        options(**changes)  # type: ignore[arg-type]


def test_trimap_values_stay(tiny_sets: dict[str, Path]) -> None:
    for storage in ("jpeg", "raw"):
        reader = ShardSet.open(tiny_sets[storage]).split("train")
        data = reader.read(0, "trimap")
        if storage == "raw":
            assert set(data[128:]) <= {1, 2, 3}
    assert set(np.unique(trimap(0))) == {1, 2, 3}


@pytest.mark.parametrize("cut_off", [False, True])
def test_every_file_is_flushed_before_the_set_appears(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut_off: bool
) -> None:
    """Of shards that an earlier build had finished, too: it may not have come to flush them."""
    out = tmp_path / "out"
    if cut_off:
        with monkeypatch.context() as patch:
            patch.setattr("shards.build.build_set.assemble", fail)
            with pytest.raises(OSError, match="no more"):
                made(pets, out)
        assert len(list((tmp_path / "out.building" / ".work").glob("*.done"))) > 5
    flushed: set[int] = set()
    real_fsync, real_rename = os.fsync, Path.rename

    def fsync(handle: int) -> None:
        flushed.add(os.fstat(handle).st_ino)
        real_fsync(handle)

    def rename(self: Path, target: Path) -> Path:
        if target == out:
            files = [path for path in self.iterdir() if path.is_file()]
            assert len(files) > 10
            assert {path.stat().st_ino for path in (*files, self, self / ".work" / "plan")} <= flushed
            flushed.add(-1)
        return real_rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    built = made(pets, out)
    assert -1 in flushed
    assert bool(built.resumed) == cut_off


@pytest.mark.parametrize("cut_off", [False, True])
def test_no_thread_flushes_while_processes_are_started(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut_off: bool
) -> None:
    """They could not be forked then, and would start afresh, which takes longer than packing a small set."""
    out, left = tmp_path / "out", [1, 2]

    def two_shards(task: ShardTask, folder: str) -> ShardRecord:
        return build_shard(task, folder) if left and left.pop() else fail()

    if cut_off:
        with monkeypatch.context() as patch:
            patch.setattr("shards.build.build_set.build_shard", two_shards)
            with pytest.raises(OSError, match="no more"):
                made(pets, out)
    running: list[list[str]] = []
    real = shards.build.executors._context

    def context() -> object:
        running.append([thread.name for thread in threading.enumerate() if thread.name.startswith("flush")])
        return real()

    monkeypatch.setattr(shards.build.executors, "_context", context)
    built = build(pets, out, options(), workers=2)
    assert running == [[]]
    assert bool(built.resumed) == cut_off


def fail(*_: object) -> NoReturn:
    raise OSError("no more")
