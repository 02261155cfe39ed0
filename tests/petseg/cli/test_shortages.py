"""A machine without enough memory or threads: one line that says so, and no file counts as damaged for it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import torch
from sample_runs import sample_checkpoint

from petseg.cli import evaluate
from petseg.host.distributed import World
from petseg.nets.encoder_weights import read_state
from petseg.runs.checkpoint import CheckpointError, damage_of, load_checkpoint
from petseg.training.start import _advice
from shards.errors import PetsegError, describe_os_error

NO_MEMORY = [
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 1 GiB"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("could not create a primitive"),
]
OTHERS = {
    BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)): "Error: no more threads or processes can be started; end "
    "other programs",
    OSError(errno.EFBIG, "Too large"): "Error: stdout, or a temporary file, cannot be written (Too large); "
    "raise a limit of this session (`ulimit -f`) or of the file system and run the same command again",
    RuntimeError("can't start new thread"): "Error: no more threads or processes can be started; end other programs",
    ImportError("libtorch_cpu.so: failed to map segment from shared object"): "Error: a library cannot be loaded, for "
    "lack of memory or because it is not installed whole: libtorch_cpu.so",
}


def failing(error: Exception) -> Any:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    return fail


@pytest.mark.parametrize("error", [*NO_MEMORY, *OTHERS], ids=lambda error: str(error)[:20])
def test_one_line_says_what_is_lacking(call: Any, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr("shards.format.dataset.ShardSet.open", failing(error))
    result = call(evaluate, "run", "--shards", "set")
    (line,) = result.err.splitlines()
    assert result.code == 1
    assert line.startswith(OTHERS.get(error, "Error: out of memory: use a smaller --batch-size"))


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.EEXIST, "out.csv exists already; choose another name"),
        (errno.EISDIR, "out.csv is a folder, a file was expected"),
        (errno.ENXIO, "out.csv is a socket or a device, a file was expected"),
        (errno.ENOTDIR, "not a folder (out.csv)"),
    ],
)
def test_what_is_said_of_a_file_follows_its_name(number: int, expected: str) -> None:
    """In brackets behind it, as of other errors, the name made no sentence."""
    assert describe_os_error(OSError(number, os.strerror(number), "out.csv")) == expected
    assert describe_os_error(OSError(number, os.strerror(number))) in (expected[8:], expected.partition(" (")[0])


@pytest.mark.parametrize("error", [RuntimeError("of a kind that is a fault"), ImportError("no module named x")])
def test_other_errors_are_faults_and_are_seen(call: Any, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr("shards.format.dataset.ShardSet.open", failing(error))
    with pytest.raises(type(error), match=str(error)):
        evaluate.main(["run", "--shards", "set"])


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: str(error)[:20])
def test_nothing_counts_as_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    (tmp_path / "a.pt").touch()
    monkeypatch.setattr("petseg.runs.checkpoint.read_tensors", failing(error))
    monkeypatch.setattr("petseg.nets.encoder_weights.read_tensors", failing(error))
    for read in (load_checkpoint, read_state):
        with pytest.raises(type(error)) as caught:
            read(tmp_path / "a.pt")
        assert caught.value is error
    if isinstance(error, RuntimeError):
        with pytest.raises(RuntimeError) as caught, damage_of(sample_checkpoint()):
            raise error
        assert caught.value is error


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_a_checkpoint_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    (tmp_path / "a.pt").touch()
    monkeypatch.setattr("petseg.runs.checkpoint.read_tensors", failing(error))
    with pytest.raises(CheckpointError, match=rf"a\.pt cannot be read \({error.strerror}\)"):
        load_checkpoint(tmp_path / "a.pt")


def test_a_training_names_the_limit_of_files(tmp_path: Path) -> None:
    with pytest.raises(PetsegError) as raised, _advice(tmp_path, SimpleNamespace(world=World())):
        raise OSError(errno.EFBIG, "File too large", str(tmp_path / "last.pt"))
    limit = "a limit of this session (`ulimit -f`) or of the file system"
    assert str(raised.value).startswith(f"File too large: {limit} ({tmp_path / 'last.pt'}); once that is fixed")
