"""Fixtures that several folders share: where the real images are, a synthetic dataset, sets built from both."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest

# A slow machine is no fault of the code: pytest-timeout ends what hangs.
SLOW: dict[str, Any] = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("petseg", max_examples=20, **SLOW)
hypothesis.settings.register_profile("campaign", **SLOW)

# Before torch is imported: tests run side by side, each process in one thread, and threads that wait should not keep
# others from working.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# What is imported for the tests stays: looking through it for garbage again and again takes a tenth of the time.
gc.disable()

# Started in the background of a script, or by nohup, this process and all that it starts would ignore Ctrl-C or SIGHUP,
# which are tested here.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests" / "helpers"))  # of several folders; pytest's importlib mode does not


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--campaign",
        action="store_true",
        help="cause as many faults as each fault test's long count says (make test-faults)",
    )


def pytest_configure(config: pytest.Config) -> None:
    hypothesis.settings.load_profile("campaign" if config.getoption("--campaign") else "petseg")


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()
    gc.set_threshold(7_000, 10, 100)  # rarely: each full pass looks through torch, which the tests import themselves


@pytest.fixture(scope="session")
def campaign(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """``campaign(6, 100)``: how many faults to cause, 6 by default, 100 with --campaign."""
    long_run = bool(request.config.getoption("--campaign"))
    return lambda short, long: long if long_run else short


@pytest.fixture(scope="session")
def real_pets() -> Path:
    """Real images in the official layout: $PETSEG_PETS, else shared/oxford-pets-sample next to the project."""
    folder = Path(os.environ.get("PETSEG_PETS") or ROOT.parent / "shared" / "oxford-pets-sample")
    if not (folder / "annotations" / "trimaps").is_dir():
        pytest.skip(f"no real images: set PETSEG_PETS to a folder in the official layout ({folder} is none)")
    return folder


MadeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """``made_once("pets", make)``: a folder that ``make(folder)`` has filled, once for all processes of pytest-xdist.

    They read it at the same time: what is in it must not be changed, nor a run in it be resumed.
    """
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def made_once(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a process that failed
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return made_once


@pytest.fixture(scope="session")
def synthetic_pets(made_once: MadeOnce) -> Path:
    """A synthetic dataset of 60 images in the official layout, drawn by ``petseg-shard sample``."""
    from shards.sources.synthetic.generate import make_pets

    return made_once("synthetic", lambda folder: make_pets(folder / "pets", count=60, seed=7)) / "pets"


@pytest.fixture(scope="session")
def synthetic_set(synthetic_pets: Path, made_once: MadeOnce) -> Path:
    """A ``source`` shard set of the synthetic dataset, official split, several shards a split."""
    make = lambda folder: build_here(synthetic_pets, folder / "shards", samples_per_shard=16)  # noqa: E731
    return made_once("synthetic-set", make) / "shards"


@pytest.fixture(scope="session")
def real_set(real_pets: Path, made_once: MadeOnce) -> Path:
    """A ``source`` shard set of the real images, official split."""
    return made_once("real-set", lambda folder: build_here(real_pets, folder / "shards")) / "shards"


def build_here(source: Path, out: Path, **options: Any) -> Path:
    """Build a set in this process: the bytes that ``petseg-shard build`` writes, without the start of a process."""
    from shards.build.build_set import build
    from shards.build.options import options_from

    common = {"size": None, "quality": None, "fractions": None, "val_fraction": None}
    build(source, out, options_from(storage="source", split="official", seed=0, **common, **options), workers=1)
    return out


def run_command(*arguments: str | Path, check: bool = True, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run one of the project's commands in a process of its own, as a user would."""
    import forked_programs

    program = Path(sys.executable).parent / str(arguments[0])
    result = forked_programs.run([program, *map(str, arguments[1:])], capture_output=True, text=True, timeout=timeout)
    if check and result.returncode:
        raise AssertionError(f"{' '.join(map(str, arguments))} exited {result.returncode}:\n{result.stderr}")
    return result


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """:func:`run_command`, for tests of the command line."""
    return run_command


@pytest.fixture
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader's processes are forks of one that has imported what they need."""
    from forked_programs import ForkedPopen

    like = SimpleNamespace(Popen=ForkedPopen, TimeoutExpired=subprocess.TimeoutExpired)
    monkeypatch.setattr("pipeline.workers.worker_pool.subprocess", like)


@pytest.fixture
def built_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds that are not told how many processes to use start none, which takes longer than a small set."""
    monkeypatch.setattr("shards.build.engines.executors.usable_cores", lambda: 1)


SmallDisk = Callable[[Path, str], contextlib.AbstractContextManager[Path]]


@pytest.fixture(scope="session")
def small_disk() -> SmallDisk:
    """``with small_disk(folder, "8m") as disk``: a disk of that size; the test is skipped where none can be mounted."""
    return mount_small_disk


@contextlib.contextmanager
def mount_small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
