"""Loaders in real processes: killed and resumed, spread over ranks, interrupted; what is left behind, what it costs."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from forked_programs import ForkedPopen

from pipeline.io.io_uring import is_available

PATIENCE = 300  # seconds for a program that may wait for a busy machine; what hangs would take longer

# A parent that has imported everything forks one child a line of input; each child runs a loader from a saved state to
# the end of an epoch number, or to a number of batches, and writes a line a batch. Forking spares an import a child.
RUNNER = textwrap.dedent(
    """
    import hashlib, json, os, sys
    import torch, cv2, simplejpeg
    if len(sys.argv) > 1: import nvidia.dali.fn
    from pipeline import Loader

    def run(job):
        state = job.pop("state")
        epochs, batches = job.pop("epochs"), job.pop("batches")
        with Loader(job.pop("shards"), device="cpu", **job) as loader:
            if state is not None:
                loader.load_state_dict(state)
            while loader.epoch < epochs and batches:
                for batch in loader:
                    batches -= 1
                    samples = [
                        (int(i), hashlib.sha256(x.contiguous().numpy().tobytes() + m.numpy().tobytes()).hexdigest())
                        for i, x, m in zip(batch.index, batch.image, batch.mask)
                    ]
                    line = {"epoch": batch.epoch, "number": batch.number, "samples": samples}
                    line["state"] = loader.state_dict()
                    os.write(1, (json.dumps(line) + "\\n").encode())
                    if not batches:
                        break

    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            try:
                run(json.loads(line))
            finally:
                sys.stdout.flush()
                os._exit(0)
        os.write(1, (json.dumps({"pid": pid}) + "\\n").encode())
        ended = os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        os.write(1, (json.dumps({"done": True, "killed": ended}) + "\\n").encode())
    """
)


class Runner:
    """Runs jobs one after the other in children of one warm process."""

    def __init__(self, *flags: str) -> None:
        self._process = ForkedPopen(
            [sys.executable, "-c", RUNNER, *flags], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, *, kill_after: int | None = None, **job: Any) -> tuple[list[dict[str, Any]], bool]:
        """Return the lines of a job and whether it was killed before it had ended.

        With ``kill_after``, it is killed when so many lines are there, and further lines are dropped.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        defaults = {"state": None, "epochs": 10**9, "batches": 10**9, "seed": 3, "augment": "train"}
        self._process.stdin.write(json.dumps(defaults | job) + "\n")
        self._process.stdin.flush()
        lines: list[dict[str, Any]] = []
        pid = 0
        while True:
            line = json.loads(self._process.stdout.readline())
            if "pid" in line:
                pid = line["pid"]
            elif "done" in line:
                return lines, line["killed"]
            elif kill_after is None or len(lines) < kill_after:
                lines.append(line)
            if pid and kill_after is not None and len(lines) >= kill_after:
                with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                    os.kill(pid, signal.SIGKILL)
                pid = 0

    def close(self) -> None:
        self._process.communicate(timeout=PATIENCE)


ENGINES = [("raw", "torch"), ("source", "dali"), ("jpeg", "processes")]


@pytest.fixture(scope="module", params=ENGINES, ids="-".join)
def runner(request: pytest.FixtureRequest, sets: dict[str, Path], with_engine: Any) -> Any:
    with running(*request.param, sets=sets, with_engine=with_engine) as run:
        yield run


@contextlib.contextmanager
def running(storage: str, engine: str, *, sets: dict[str, Path], with_engine: Any) -> Iterator[Any]:
    flags = ("dali",) if engine == "dali" else ()
    started = Runner(*flags)

    def run(*, kill_after: int | None = None, **job: Any) -> tuple[list[dict[str, Any]], bool]:
        size = 96 if engine == "processes" else 32  # as stored: to shrink images, workers import torch
        options = with_engine({"shards": str(sets[storage]), "engine": engine, "size": size, **job})
        return started.run(kill_after=kill_after, **options)

    yield run
    started.close()


def samples(lines: list[dict[str, Any]]) -> list[Any]:
    return [(line["epoch"], line["number"], *map(tuple, line["samples"])) for line in lines]


@pytest.mark.faults
def test_killed_at_random_batches_and_resumed(
    runner: Any, request: pytest.FixtureRequest, campaign: Callable[[int, int], int]
) -> None:
    """SIGKILL at a random batch, again and again: indices and tensor bytes are those of a run that was never killed.

    What the killed run had delivered after its last saved state is thrown away with it, as a training program would.
    """
    kill_and_resume(runner, kills=campaign(1 if "processes" in request.node.callspec.id else 3, 50))


@pytest.mark.faults
@pytest.mark.parametrize(("storage", "engine"), ENGINES)
def test_the_same_with_21_classes(
    storage: str,
    engine: str,
    many_class_sets: dict[str, Path],
    with_engine: Any,
    campaign: Callable[[int, int], int],
) -> None:
    if not campaign(0, 1):
        pytest.skip("with --campaign")
    with running(storage, engine, sets=many_class_sets, with_engine=with_engine) as run:
        kill_and_resume(run, kills=campaign(0, 50), size=(40, 56), fit="cover", mask="onehot")


def kill_and_resume(run: Any, *, kills: int, **job: Any) -> None:
    """Run an epoch's loop whole, then killed at random batches until there were so many kills; compare."""
    dice = random.Random(0)
    whole, _ = run(batch_size=8, epochs=4, **job)
    assert len(whole) == 20
    killed_so_far, jobs = 0, 0
    while killed_so_far < kills:
        got: list[dict[str, Any]] = []
        while len(got) < len(whole):
            kill_after = dice.randint(0, 7) if killed_so_far < kills else None
            part, killed = run(
                batch_size=8,
                epochs=4,
                state=got[-1]["state"] if got else None,
                prefetch=dice.randint(1, 4),
                threads=dice.randint(1, 3),
                kill_after=kill_after,
                **job,
            )
            killed_so_far += killed
            jobs += 1
            got += part
        assert jobs < 20 * kills, f"only {killed_so_far} of {jobs} children were still running when the signal came"
        assert samples(got) == samples(whole)


def test_the_number_of_ranks_may_change_on_the_way(
    runner: Any, request: pytest.FixtureRequest, campaign: Callable[[int, int], int]
) -> None:
    """1 -> 2 -> 3 -> 1 ranks, in processes of their own: the global batches are those of one rank throughout."""
    if "processes" in request.node.callspec.id and not campaign(0, 1):
        pytest.skip("with --campaign: see test_ranks_together_are_one_rank in test_loader_contract.py")
    whole, _ = runner(batch_size=12, epochs=3)
    got: list[Any] = []
    state = None
    for world_size, batches in ((1, 2), (2, 3), (3, 4), (1, 3)):
        parts = [
            runner(batch_size=12, state=state, batches=batches, epochs=3, rank=rank, world_size=world_size)[0]
            for rank in range(world_size)
        ]
        states = [part[-1]["state"] for part in parts]
        assert all(each == states[0] for each in states)  # any rank's state serves all
        state = states[0]
        for slices in zip(*parts, strict=True):
            got.append(
                (slices[0]["epoch"], slices[0]["number"], *(tuple(s) for part in slices for s in part["samples"]))
            )
    assert got == samples(whole)


def python(
    program: str, *arguments: str, start: type[subprocess.Popen[str]] = ForkedPopen, **options: Any
) -> subprocess.Popen[str]:
    return start(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_an_interrupt_in_the_middle_of_a_batch_ends_within_seconds(sets: dict[str, Path]) -> None:
    program = """
        import sys
        from pipeline import Loader
        loader = Loader(sys.argv[1], batch_size=40, size=512, device="cpu", augment="train", prefetch=4)
        print("ready", flush=True)
        while True:
            for batch in loader:
                print(batch.number, flush=True)
    """
    process = python(program, str(sets["source"]))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdout.readline()
    time.sleep(0.05)
    # Nothing that could outlive the process: it has no processes of its own, and maps no shared memory.
    assert psutil.Process(process.pid).children(recursive=True) == []
    assert [line for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines() if "/dev/shm" in line] == []
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, errors = process.communicate(timeout=PATIENCE)
    assert time.monotonic() - start < 60
    assert process.returncode in (-signal.SIGINT, 1, 130)
    assert "KeyboardInterrupt" in errors
    assert "Fatal" not in errors
    assert not psutil.pid_exists(process.pid)


def test_a_loader_imports_no_more_than_it_needs_and_does_not_keep_the_process(sets: dict[str, Path]) -> None:
    """No close(), in the middle of an epoch, on both engines: exit code 0, nothing on stderr. In one new process."""
    program = """
        import sys
        from pipeline import Loader
        for folder in sys.argv[1:4]:
            with Loader(folder, batch_size=4, device="cpu") as loader:
                next(iter(loader))
        print([name for name in sys.argv[4:] if name in sys.modules])
        for engine in ("torch", "dali"):
            loader = Loader(sys.argv[1], batch_size=4, size=64, device="cpu", prefetch=4, engine=engine)
            iterator = iter(loader)
            next(iterator)
    """
    unneeded = ("torchvision", "webdataset", "matplotlib", "PIL", "nvidia.dali")
    process = python(
        program, *(str(sets[name]) for name in ("source", "jpeg", "raw")), *unneeded, start=subprocess.Popen
    )
    output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output, errors) == (0, "[]\n", "")


def test_an_epoch_where_dali_is_not_installed(sets: dict[str, Path]) -> None:
    """A process that cannot find DALI: ``auto`` runs an epoch all the same, and says what it chose and why."""
    program = """
        import sys
        class Nowhere:
            def find_spec(self, name, *_):
                if name == "nvidia" or name.startswith("nvidia."):
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        sys.meta_path.insert(0, Nowhere())
        from pipeline import Loader
        for folder in sys.argv[1:]:
            with Loader(folder, batch_size=8, size=32, device="cpu", augment="train", engine="auto") as loader:
                print(loader.engine, sum(int(batch.valid.sum()) for batch in loader), loader.engine_reason)
        assert "nvidia" not in sys.modules
    """
    output, errors = python(program, *map(str, sets.values())).communicate(timeout=PATIENCE)
    assert errors == ""
    reasons = {"source": "in less memory", "jpeg": "faster than DALI", "raw": "needs no decoding"}
    for line, storage in zip(output.splitlines(), sets, strict=True):
        assert line.startswith("torch 40 ")
        assert reasons[storage] in line


def test_a_fork_with_the_loader_of_its_parent_ends_with_a_message(sets: dict[str, Path]) -> None:
    """A loader made before ``os.fork``, iterated before and anew: an error that says what to do, not a hang."""
    program = """
        import os, sys, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later warn of every such fork
        from pipeline import Loader
        from shards.errors import PetsegError
        for engine in ("torch", "dali"):
            loader = Loader(sys.argv[1], batch_size=4, size=32, device="cpu", engine=engine, threads=2)
            iterator = iter(loader)
            next(iterator)
            if not os.fork():
                for take in (lambda: next(iterator), lambda: next(iter(loader))):
                    try:
                        take()
                    except PetsegError as error:
                        print(error, flush=True)
                os._exit(0)
            os.wait()
            print(next(iterator).number, flush=True)
            loader.close()
    """
    output, errors = python(program, str(sets["source"])).communicate(timeout=PATIENCE)
    assert errors == ""
    lines = output.splitlines()
    assert [lines[2], lines[5]] == ["1", "1"]
    assert all(
        "forked after its loader was created" in line and "create the loader in the process" in line
        for line in (*lines[:2], *lines[3:5])
    )


@pytest.mark.parametrize(
    "stuck",
    [
        "os.preadv, members.thread_ring = wait, lambda: None",
        pytest.param(
            "io_uring.Ring.read = wait", marks=pytest.mark.skipif(not is_available(), reason="no io_uring here")
        ),
    ],
)
def test_a_stuck_read_does_not_keep_the_process(sets: dict[str, Path], stuck: str) -> None:
    """A disk that never answers: the timeout's message, and the process ends although a thread still waits."""
    program = """
        import os, sys, threading
        import pipeline.runtime.threads
        from pipeline.io import io_uring, members
        from pipeline import Loader
        from shards.errors import PetsegError
        pipeline.runtime.threads.STOP_SECONDS = 0.2
        wait = lambda *_: threading.Event().wait()
        STUCK
        loader = Loader(sys.argv[1], batch_size=4, device="cpu", engine="torch", timeout=0.5)
        try:
            next(iter(loader))
        except PetsegError as error:
            print(error)
    """
    process = python(program.replace("STUCK", stuck), str(sets["source"]))
    output, errors = process.communicate(timeout=PATIENCE)
    assert "no batch within 0.5 seconds" in output
    assert (process.returncode, errors) == (0, "")


def test_importing_the_package_is_cheap() -> None:
    program = """
        import sys
        import pipeline
        pipeline.order.permutation if hasattr(pipeline, "order") else None
        assert not {"torch", "nvidia.dali", "cv2", "torchvision", "numpy"} & set(sys.modules), sys.modules.keys()
    """
    process = python(program, start=subprocess.Popen)
    assert process.communicate(timeout=PATIENCE) == ("", "")


def test_memory_is_flat(sets: dict[str, Path], campaign: Callable[[int, int], int]) -> None:
    """Peak memory after thirty epochs is that after five, within what an allocator may keep; of other storages, see
    ``tests/bench/test_starts_and_memory.py``.
    """
    program = """
        import resource, sys
        from pipeline import Loader
        def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        with Loader(sys.argv[1], batch_size=8, size=96, device="cpu", augment="train") as loader:
            peaks = []
            for _ in range(int(sys.argv[2])):
                for batch in loader: pass
                peaks.append(peak())
        print(peaks[4], peaks[-1])
    """
    process = python(program, str(sets["jpeg"]), str(campaign(30, 100)))
    early, late = map(float, process.communicate(timeout=PATIENCE)[0].split())
    assert late - early < 24, (early, late)
