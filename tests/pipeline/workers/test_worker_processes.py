"""Batches made by processes of their own: the same batches, nothing left behind, and a clear end when one dies."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import forked_programs
import psutil
import pytest
from forked_programs import ForkedPopen
from waiting import wait_until

if not hasattr(os, "memfd_create"):
    pytest.skip("workers need Linux", allow_module_level=True)

from pipeline import Batch, Loader
from pipeline.engine import IN_FLIGHT
from pipeline.workers.process_engine import ProcessEngine
from pipeline.workers.shared_memory import SharedPool
from pipeline.workers.worker_pool import WorkerPool
from shards.errors import PetsegError, SampleError
from shards.format.dataset import ShardSet

SECONDS = 60.0  # within which whatever goes wrong must have come to an end


def digest(batch: Batch) -> tuple[Any, ...]:
    pixels = (batch.image.contiguous().numpy().tobytes(), batch.mask.numpy().tobytes())
    return (batch.epoch, batch.number, batch.index.tolist(), [hashlib.sha256(part).hexdigest() for part in pixels])


def children(pid: int | None = None) -> list[psutil.Process]:
    found = psutil.Process(pid).children()
    return [one for one in found if one.name() == "worker_main" or "pipeline.workers.worker_main" in one.cmdline()]


def is_alive(process: psutil.Process) -> bool:
    """A process that has ended is alive for psutil until its parent, which may be slow, asks for its exit status."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.fixture
def own_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each starts Python, as outside tests."""
    monkeypatch.setattr("pipeline.workers.worker_pool.subprocess", subprocess)


@pytest.fixture
def folder(sets: dict[str, Path]) -> Path:
    return sets["raw"]


def make(folder: Path, **options: Any) -> Loader:
    # The size is the stored one: to shrink images, each worker imports torch.
    defaults: dict[str, Any] = {"batch_size": 12, "size": 96, "device": "cpu", "seed": 5, "processes": 2}
    return Loader(folder, **(defaults | options))


def epochs(loader: Loader, count: int) -> None:
    for _ in range(count):
        for _ in loader:
            pass


@pytest.mark.parametrize(
    ("storage", "augment", "mask", "size"),
    [("jpeg", None, "onehot", 96), ("raw", "train", "index", 96), ("source", "train", "onehot", 40)],
)
def test_the_batches_are_those_of_threads(
    sets: dict[str, Path], storage: str, augment: Any, mask: Any, size: int,
    request: pytest.FixtureRequest, campaign: Callable[[int, int], int],
) -> None:  # fmt: skip
    if size == 96 or campaign(0, 1):  # to shrink images, each imports torch, which forks have done
        request.getfixturevalue("own_processes")
    runs = []
    for processes in (0, 2):
        with make(sets[storage], augment=augment, mask=mask, size=size, processes=processes) as loader:
            runs.append([digest(batch) for _ in range(2) for batch in loader])
    assert runs[0] == runs[1]


@pytest.mark.usefixtures("own_processes")
def test_no_process_is_left_by_a_loader_that_is_closed(folder: Path) -> None:
    with make(folder) as loader:
        wait_until(lambda: len(children()) == 2, seconds=SECONDS)
        next(iter(loader))
    assert children() == []


def test_no_process_is_left_by_a_loader_that_is_dropped(folder: Path) -> None:
    loader = make(folder)
    next(iter(loader))
    del loader
    gc.collect()
    wait_until(lambda: children() == [], seconds=SECONDS)


@pytest.mark.usefixtures("own_processes")
def test_a_worker_that_is_killed_is_reported_and_the_loader_can_go_on(folder: Path) -> None:
    with make(folder, batch_size=4) as loader:
        wanted = [digest(batch) for batch in loader]
        loader.set_epoch(0)
        for one in children():
            one.kill()
        start = time.monotonic()
        with pytest.raises(PetsegError, match=r"a worker process of the loader ended \(killed by SIGKILL\)") as caught:
            epochs(loader, 3)
        assert "\n" not in str(caught.value)
        assert time.monotonic() - start < SECONDS
        loader.set_epoch(0)
        assert [digest(batch) for batch in loader] == wanted
        wait_until(lambda: len(children()) == 2, seconds=SECONDS)


def test_a_worker_that_hangs_runs_into_the_timeout(folder: Path) -> None:
    with make(folder) as loader:
        next(iter(loader))  # with more time, since the processes have to start
        wait_until(lambda: len(children()) == 2, seconds=SECONDS)  # one that still starts would do the work of both
        loader._engine._timeout = 0.5
        for one in children():
            one.suspend()
        start = time.monotonic()
        with pytest.raises(PetsegError, match=r"no batch within 0.5 seconds"):
            epochs(loader, 3)
    assert time.monotonic() - start < SECONDS
    assert children() == []


PARENT = """
    import os, sys, time
    from pipeline import Loader
    loader = Loader(sys.argv[1], batch_size=4, size=96, device="cpu", augment="train", processes=2)
    iterator = iter(loader)
    next(iterator)
    if "fork" in sys.argv and not os.fork():
        time.sleep(60)
        os._exit(0)
    print("ready", flush=True)
    while "run" in sys.argv or "fork" in sys.argv:
        for batch in loader:
            pass
"""


@contextlib.contextmanager
def parent(folder: Path, how: str) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    process = ForkedPopen(
        [sys.executable, "-c", textwrap.dedent(PARENT), str(folder), how],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process, children(process.pid) if how != "end" else []
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=SECONDS)


@pytest.mark.parametrize("how", ["run", "fork"])
def test_workers_end_when_the_loaders_process_is_killed(folder: Path, how: str) -> None:
    """With a fork that still holds the connections, too."""
    with parent(folder, how) as (process, workers):
        assert len(workers) == 2
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        wait_until(lambda: not any(is_alive(one) for one in workers), seconds=SECONDS)


def test_ctrl_c_ends_within_seconds(folder: Path) -> None:
    with parent(folder, "run") as (process, workers):
        os.killpg(process.pid, signal.SIGINT)
        start = time.monotonic()
        _, errors = process.communicate(timeout=2 * SECONDS)
        assert time.monotonic() - start < SECONDS
        assert errors.count("Traceback") == 1  # of the program, not of its workers
        assert "KeyboardInterrupt" in errors
        wait_until(lambda: not any(is_alive(one) for one in workers), seconds=SECONDS)


def test_a_program_that_forgets_to_close_ends_in_silence(folder: Path) -> None:
    with parent(folder, "end") as (process, _):
        output, errors = process.communicate(timeout=2 * SECONDS)
        assert (process.returncode, output, errors) == (0, "", "")


@pytest.mark.parametrize("processes", [0, 2])
def test_a_tar_that_was_replaced_is_checked_from_its_first_sample_on(
    make_set: Callable[..., Path], processes: int
) -> None:
    folder = make_set(10, storage="raw", size=48)
    with make(folder, batch_size=5, size=48, shuffle=False, processes=processes) as loader:
        list(loader)  # all checksums are known to fit
        tar = sorted(folder.glob("*.tar"))[0]
        row = ShardSet.open(folder).split("train").table[3]
        changed = bytearray(tar.read_bytes())
        changed[int(row["image_offset"]) + 500] ^= 1
        tar.with_suffix(".new").write_bytes(changed)
        tar.with_suffix(".new").replace(tar)
        with pytest.raises(SampleError, match=r"pet_3\.image\.npy \(sample 3 .*checksum"):
            list(loader)


@pytest.mark.parametrize("storage", ["raw", "jpeg"])
def test_a_tar_that_is_cut_off_while_it_is_mapped_is_reported_then_named(
    make_set: Callable[..., Path], storage: str
) -> None:
    folder = make_set(40, storage=storage, size=48)
    with Loader(folder, batch_size=2, size=48, processes=1) as loader:
        list(loader)  # read and verified: from now on mapped
        batches = iter(loader)
        next(batches)
        for tar in folder.glob("train-*.tar"):
            os.truncate(tar, 512)
        with pytest.raises(PetsegError, match=r"killed by SIGBUS\); a tar has become shorter.* petseg-shard verify"):
            list(batches)
        with pytest.raises(PetsegError, match=r"train-00000\d\.tar.* has 512 bytes"):
            list(loader)


def test_a_tar_that_is_cut_off_is_named(make_set: Callable[..., Path]) -> None:
    folder = make_set(100, storage="raw", size=48)
    with make(folder, batch_size=2, size=48, shuffle=False) as loader:
        batches = iter(loader)
        next(batches)
        tar = sorted(folder.glob("*.tar"))[7]  # samples 49 to 55: not among those that were read ahead
        with tar.open("r+b") as handle:
            handle.truncate(1000)
        with pytest.raises(SampleError, match=r"train-000007\.tar.*(has 1000 bytes|ends after)"):
            for _ in batches:
                pass
        assert loader.state_dict()["batch"] == 24


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"processes": -1}, "processes must be a whole number from 0 to 64, not -1"),
        ({"processes": True}, "processes must be a whole number"),
        ({"processes": 2, "threads": 2}, "give one of them"),
        ({"processes": 2, "engine": "dali"}, "works with engine torch"),
    ],
)
def test_wrong_arguments_are_refused(sets: dict[str, Path], options: dict[str, Any], message: str) -> None:
    with pytest.raises(PetsegError, match=message):
        make(sets["raw"], **options)


def test_workers_find_this_package_and_no_module_of_the_users(folder: Path, tmp_path: Path) -> None:
    """A program in a folder that has modules of these names, found only through ``sys.path``, as in a notebook."""
    for name in ("pipeline.py", "shards.py", "io.py", "engine.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong module was imported')")
    program = """
        import sys
        sys.path.insert(0, sys.argv[2])
        from pipeline import Loader
        from pipeline.workers import worker_pool
        with Loader(sys.argv[1], batch_size=12, device="cpu", processes=1) as loader:
            print(len(list(loader)))
    """
    root = Path(__file__).resolve().parents[3]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for extra in ({}, {"PYTHONPATH": "."}):
        process = forked_programs.run(
            [sys.executable, "-P", "-c", textwrap.dedent(program), str(folder), str(root)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment | extra,
        )
        assert (process.returncode, process.stdout, process.stderr) == (0, "4\n", "")


def test_processes_without_shared_memory_are_refused(sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(PetsegError, match="processes=2 needs Linux; use threads"):
        make(sets["raw"])


@pytest.mark.usefixtures("own_processes")
def test_a_process_that_cannot_be_started_is_reported(sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(PetsegError, match="a worker process of the loader cannot be started: No such file"):
        make(sets["raw"])


@pytest.mark.usefixtures("own_processes")
def test_the_last_output_of_a_process_is_reported() -> None:
    pool = SharedPool(((4,),), spare=1)
    workers = WorkerPool(b"no setup", pool.descriptor, 1)
    batch = workers.request(*pool.take(), count=1, generation=0)
    with pytest.raises(PetsegError, match=r"ended \(exit 1: .*pickl"):
        workers.wait_for(batch, SECONDS)
    with pytest.raises(PetsegError, match="were ended; start a new iteration"):
        workers.request(*pool.take(), count=1, generation=0)


class SlowEnd:
    """What a worker unpickles: it closes its connection long before it is gone, as on a busy core."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("import os, sys, time; os.close(int(sys.argv[1])); time.sleep(1); os._exit(7)",)


def test_how_a_process_ended_is_waited_for() -> None:
    pool = SharedPool(((4,),), spare=1)
    workers = WorkerPool(pickle.dumps(SlowEnd()), pool.descriptor, 1)
    batch = workers.request(*pool.take(), count=1, generation=0)
    with pytest.raises(PetsegError, match=r"ended \(exit 7\)"):
        workers.wait_for(batch, SECONDS)


def test_exhausted_memory_is_reported(sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    with make(sets["raw"]) as loader:
        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(PetsegError, match=r"no memory for another batch of .* bytes: No space left"):
            list(loader)


def test_prefetch_covers_every_process(sets: dict[str, Path]) -> None:
    with make(sets["raw"], processes=3, prefetch=1) as loader:
        assert loader.prefetch == 6
        assert loader.buffer_bytes is not None
        assert len(list(loader)) == len(loader)
    with make(sets["raw"], processes=2, prefetch=5) as loader:
        assert loader.prefetch == 5


def test_batches_that_are_kept_stay_whole_and_their_memory_goes_back(sets: dict[str, Path]) -> None:
    with make(sets["raw"], size=96, augment="train") as loader:
        engine = loader._engine
        assert isinstance(engine, ProcessEngine)
        for _ in loader:
            time.sleep(0.05)  # for all that may be made ahead
            assert os.fstat(engine._memory.descriptor).st_blocks * 512 <= (loader.buffer_bytes or 0)
        kept = [batch for _ in range(10) for batch in loader]
        before = [digest(batch) for batch in kept]
        list(loader)
        assert [digest(batch) for batch in kept] == before
        held = os.fstat(engine._memory.descriptor).st_blocks * 512
        del kept
        list(loader)
        left = os.fstat(engine._memory.descriptor).st_blocks * 512
        assert held > 40 * engine._memory.bytes_each
        assert left <= (2 * loader.prefetch + 2 + IN_FLIGHT) * engine._memory.bytes_each  # one of them is `_`
        batch = next(iter(loader))
        digest_before = digest(batch)
    assert digest(batch) == digest_before  # the loader is closed, its processes are gone


def test_a_long_list_of_damage_crosses(make_set: Callable[..., Path]) -> None:
    """More than fits into one message: every sample of a large batch is damaged."""
    folder = make_set(300, storage="raw", size=8)
    with make(folder, batch_size=300, size=8, on_error="replace", max_damaged=299) as loader:
        for tar in folder.glob("*.tar"):
            tar.unlink()
        with pytest.raises(PetsegError, match=r"300 damaged samples|every sample of the split is damaged"):
            list(loader)
