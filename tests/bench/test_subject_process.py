"""What a run uses of the machine: warm-up, page cache, process tree, and a subject's process that misbehaves."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from bench_results import job
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bench.core.limits import copy_limit, storage_limits
from bench.core.loader_subject import LoaderServer, LoaderSubject, loader_process
from bench.core.machine import RunClock, cpu_seconds, drop_from_page_cache, memory_bytes, resident_share
from bench.core.output_check import CheckError
from bench.core.rounds import Run, Subject
from bench.core.stopwatch import GROWTH, is_steady, next_window
from bench.core.subject_process import SubjectProcess
from bench.core.workspace import Workspace, open_workspace
from bench.peers.peer import Job
from bench.peers.petseg_loader import PetsegPeer
from bench.results.records import Repeat
from bench.settings import LoaderSettings, TrainSettings
from bench.train_benchmark import TrainSubject
from shards.errors import TerminatedError


def test_steady_means_no_longer_rising() -> None:
    assert not is_steady([])
    assert not is_steady([100])
    assert is_steady([100, 100])
    assert is_steady([100, 104.9])
    assert not is_steady([100, 105.1])
    assert is_steady([100, 60])  # slower is not warming up
    assert not is_steady([50, 60, 90, 100])
    assert is_steady([10, 50, 100, 101])


def test_a_window_that_was_ready_before_it_began_does_not_size_the_next() -> None:
    assert next_window(1, 1e-6, wanted=0.3) == next_window(1, 0.0, wanted=0.3) == GROWTH
    assert next_window(8, 0.3, wanted=0.3) == 8
    assert next_window(8, 0.1, wanted=0.3) == 24
    assert next_window(8, 40.0, wanted=0.3) == 1


@given(st.floats(1e-7, 100), st.floats(0.01, 10))
def test_windows_reach_the_wanted_length(epoch_seconds: float, wanted: float) -> None:
    epochs = 1
    for _ in range(20):
        epochs = next_window(epochs, epochs * epoch_seconds, wanted=wanted)
    assert epochs == 1 or wanted / 2 < epochs * epoch_seconds < 2 * wanted


def test_numbers_of_workers_that_come_near_the_fastest_are_tried_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two cores was disturbed in its first trial, so that one worker or four seemed better."""
    rates, tried = {1: [550.0], 2: [900.0, 1600.0], 4: [1100.0, 1150.0]}, list[int]()

    def trial(_: LoaderServer, job: Job, seconds: float) -> float:
        tried.append(job.workers)
        return rates[job.workers].pop(0)

    monkeypatch.setattr(PetsegPeer, "worker_counts", lambda _: tuple(rates))
    monkeypatch.setattr(LoaderServer, "_trial", trial)
    server = LoaderServer(())
    assert server.choose_workers(job("petseg", engine="processes"), 0.3) == 2
    assert tried == [1, 2, 4, 4, 2]  # not 1 again: it is far from the fastest
    assert server.choose_workers(job("petseg", engine="processes", augment=True), 0.3) == 2
    assert len(tried) == 5  # lines of a storage share the trials


def test_a_single_number_of_workers_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PetsegPeer, "worker_counts", lambda _: (3,))
    monkeypatch.setattr(LoaderServer, "_trial", lambda *_: 100.0)
    assert LoaderServer(()).choose_workers(job("petseg"), 0.3) == 3
    monkeypatch.setattr(PetsegPeer, "worker_counts", lambda _: ())
    assert LoaderServer(()).choose_workers(job("petseg"), 0.3) == 0


def test_page_cache_is_dropped_and_seen(tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(b"x" * 5_000_000)
    if resident_share([path]) != 1.0:
        pytest.skip("this file system does not say what is in the page cache")
    drop_from_page_cache([path])
    left = resident_share([path])
    assert left is not None
    assert left < 0.1
    path.read_bytes()
    assert resident_share([path]) == 1.0
    (tmp_path / "empty").touch()
    assert resident_share([tmp_path / "empty"]) is None
    assert resident_share([tmp_path / "missing"]) is None


CHILD = "import time; block = bytearray(80_000_000); block[::4096] = b'x' * len(block[::4096]); print(flush=True); "


def test_memory_and_time_of_descendants_are_counted() -> None:
    inner = f"{CHILD} time.sleep(60)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    with subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            assert memory_bytes(process.pid) > 80_000_000
            assert cpu_seconds(process.pid) > 0
        finally:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
    assert memory_bytes(process.pid) == 0


def test_limits_are_measured_on_images_of_any_size(synthetic_set: Path) -> None:
    settings = LoaderSettings(shards=synthetic_set, split="val", storages=("jpeg",), size=(48, 40))
    with open_workspace(settings) as workspace:  # "source" is the set's own
        limits = [copy_limit(workspace.jobs["jpeg"])]
        for stored in workspace.jobs.values():
            limits += storage_limits(replace(stored, size=(640, 600)))  # larger than any image
        assert [one.name for one in limits] == [
            "copy onehot", "read source", "decode source", "decode, scaled source", "read jpeg", "decode jpeg",
        ]  # fmt: skip
        for one in limits:
            one.seconds = 0.02
            assert one.turn().rate > 1
        folder = workspace.folder
        assert 2 * workspace.data.samples == len(list((folder / "files").glob("*/*.*")))
        nothing_keeps_a_cold_loader_warm(workspace)
    assert not folder.exists()


def nothing_keeps_a_cold_loader_warm(workspace: Workspace) -> None:
    """No tar stays mapped, so that its pages can be dropped; and what petseg's has read ahead is dropped as well."""
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert [line for line in maps.read_text().splitlines() if str(workspace.folder) in line] == []
    shards, samples = workspace.jobs["jpeg"].shards, workspace.data.samples
    ours = PetsegPeer(replace(job("petseg"), shards=shards, split="val", storage="jpeg", samples=samples,
                              size=(48, 40), batch_size=3))  # fmt: skip
    ours.open()
    try:
        assert sum(int((batch.index >= 0).sum()) for batch in ours.epoch(0)) == samples
        assert ours._loader._stream is not None
        ours.discard_prefetched()
        assert ours._loader._stream is None
        assert sum(int((batch.index >= 0).sum()) for batch in ours.epoch(1)) == samples
    finally:
        ours.close()


def test_a_peer_that_cannot_start_says_why() -> None:
    process = SubjectProcess("bench.core.loader_subject:LoaderServer", imports=("unheard_of",))
    with closing(process), pytest.raises(CheckError, match="No module named 'unheard_of'"):
        process.start()


@pytest.mark.usefixtures("forked_subjects")
def test_a_process_that_fails_hangs_or_dies_is_reported_and_started_anew() -> None:
    with closing(loader_process(PetsegPeer)) as process:
        for disturb, message in (
            (lambda popen: None, "/nowhere"),
            (lambda popen: popen.send_signal(signal.SIGSTOP), r"open: no answer within 0.1 s"),
            (lambda popen: popen.kill(), "ended"),
        ):
            process.patience = 60.0
            process.start()
            assert process.popen is not None
            disturb(process.popen)
            process.patience = 0.1 if "no answer" in message else 60.0
            with pytest.raises(CheckError, match=message):
                process.ask("open", job=job("petseg"))
            assert (process.popen is None) == (message != "/nowhere")


@pytest.mark.usefixtures("forked_subjects")
@pytest.mark.parametrize("error", [KeyboardInterrupt(), TerminatedError(signal.SIGTERM)], ids=["INT", "TERM"])
def test_ctrl_c_does_not_wait_for_a_command(error: BaseException) -> None:
    """What hangs, or converts a data set, is ended at once, and what is closed then starts no process anew."""

    def stop(*_: object) -> None:
        raise error

    subject = LoaderSubject(job("petseg"), process=loader_process(PetsegPeer), ours=Any, seconds=1.0)
    with closing(subject.process):
        subject.process.start()
        popen = subject.process.popen
        assert popen is not None
        popen.send_signal(signal.SIGSTOP)
        subject.process.patience = 20.0
        before = signal.signal(signal.SIGALRM, stop)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(type(error)):
                subject.process.ask("open", job=subject.job)
        finally:
            signal.signal(signal.SIGALRM, before)
        subject.close()
        assert (popen.poll(), subject.process.popen) == (-signal.SIGKILL, None)


def test_ctrl_c_does_not_wait_for_a_start() -> None:
    """A process imports its libraries, and makes its network."""
    process = SubjectProcess("subprocess:run", args=["sleep", "60"])
    process.patience = 20.0
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    started = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        with pytest.raises(KeyboardInterrupt):
            Run(LoaderSettings(shards=Path("unused"), repeats=1)).rounds([Subject("slow", process)], seed=0)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - started < 15
    assert process.popen is None


def test_timed_commands_are_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is read four times a second of other commands; of timed ones before and after."""
    reads: list[float] = []
    monkeypatch.setattr("bench.core.subject_process.memory_bytes", lambda pid: reads.append(time.monotonic()) or 1)
    process = loader_process(PetsegPeer)
    process.popen = SimpleNamespace(pid=0)
    for timed in (True, False):
        ours, theirs = multiprocessing.Pipe()
        process._connection = ours
        timer = threading.Timer(0.7, theirs.send, [(True, "done")])
        timer.start()
        reads.clear()
        assert process.ask("turn", timed=timed) == "done"
        timer.join()
        assert (len(reads) == 2) is timed
        assert process.peak_memory_bytes == 1


def test_every_timed_turn_says_so() -> None:
    """Of loaders and of training: no turn is watched for memory."""
    asked: list[tuple[str, bool]] = []

    class Noting(SubjectProcess):
        def ask(self, command: str, *, timed: bool = False, **_: object) -> object:
            asked.append((command, timed))
            repeat = Repeat(images=1, seconds=1.0)
            if not self.server:
                return dict.fromkeys(("loader", "compute", "end-to-end"), repeat), {}
            return repeat, 1, True, 0.0

    loader = {"ours": None, "seconds": 1.0}
    trained = TrainSubject("unet", "auto", TrainSettings(shards=Path("unused")))
    trained.process = Noting("")
    subjects = [
        *(LoaderSubject(job("petseg", cache=cache), process=Noting("x"), **loader) for cache in ("warm", "cold")),
        trained,
    ]  # fmt: skip
    for subject in subjects:
        subject.turn()
    assert [timed for command, timed in asked if "turn" in command] == [True] * 3


def test_later_processes_warm_up_as_long_as_the_first_needed() -> None:
    asked: list[int | None] = []

    class Answering(SubjectProcess):
        def ask(self, command: str, *, timed: bool = False, **arguments: object) -> object:
            asked.append(arguments["windows"])
            return Repeat(images=1, seconds=1.0), 7, True, 0.0

    loader = {"ours": None, "seconds": 1.0}
    subject = LoaderSubject(job("petseg"), process=Answering(""), **loader)
    subject.turn()
    subject.turn()
    assert asked == [None, 7]


def test_the_environment_is_recorded() -> None:
    environment = RunClock().finish()
    assert environment.cores >= 1
    assert environment.memory_bytes > 1 << 28
    assert {"python", "numpy", "torch"} <= environment.versions.keys()
    assert environment.cpu


LEAVING = """
import atexit, time
from bench.core.subject_process import leave

class Slow:
    def __del__(self):
        print("finalized", flush=True)
        time.sleep(60)

kept = Slow()
atexit.register(lambda: print("cleaned up", flush=True))
leave()
"""


def test_a_subjects_process_cleans_up_but_is_not_finalized() -> None:
    found = subprocess.run([sys.executable, "-c", LEAVING], capture_output=True, text=True, timeout=50, check=True)
    assert found.stdout == "cleaned up\n"


@pytest.mark.parametrize(
    ("given", "spins"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, None)]
)
def test_training_is_measured_with_the_trainers_threads(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], spins: str | None
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    process = TrainSubject("unet", "auto", TrainSettings(shards=Path("unused"))).process
    assert process.environment is not None
    assert process.environment.get("GOMP_SPINCOUNT") == spins
    assert loader_process(PetsegPeer).environment is None


def test_a_server_that_cannot_be_made_says_why_every_time() -> None:
    """Not that the next command is no module."""
    process = SubjectProcess("fractions:Fraction", numerator="nothing")
    with closing(process):
        for _ in range(2):
            with pytest.raises(CheckError, match="ValueError: Invalid literal for Fraction"):
                process.ask("limit_denominator")


@pytest.mark.parametrize(
    ("precision", "device", "message"),
    [("fp16", "cpu", "--precisions fp16 needs a CUDA device"), ("auto", "cuda:99", "--device cuda:99: ")],
)
def test_what_a_server_refuses_is_named_as_the_command_has_it(
    synthetic_set: Path, precision: str, device: str, message: str
) -> None:
    subject = TrainSubject("unet", precision, TrainSettings(shards=synthetic_set, device=device))
    with closing(subject.process), pytest.raises(CheckError, match=message):
        subject.process.ask("prepare")
