"""What a run changes in its process ends with the run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from petseg.host.device import choose_device, cpu_threads
from shards.errors import UsageError


def subnormals_survive() -> bool:
    return float(np.float64(2.0**-1022) * np.float64(0.5)) != 0.0


def test_threads_and_subnormals_are_given_back() -> None:
    before = torch.get_num_threads()
    assert subnormals_survive()
    with cpu_threads(before + 1) as count:
        assert torch.get_num_threads() == count == before + 1
        assert not subnormals_survive()
    assert torch.get_num_threads() == before
    assert subnormals_survive()


def test_they_are_given_back_after_an_error_too() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), cpu_threads(None):
        _ = 1 / 0
    assert torch.get_num_threads() == before
    assert subnormals_survive()


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that shows this process two GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def set_ranks(monkeypatch: pytest.MonkeyPatch, *, local_size: int) -> None:
    for name, value in {"WORLD_SIZE": 4, "RANK": 1, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": local_size}.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_process_has_its_own_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device(name, local_rank=1) == torch.device("cuda", 1)
    with pytest.raises(UsageError, match="finds 2 CUDA"):
        choose_device(name, local_rank=2)
    # Slurm with --gpus-per-task=1: each process sees its own GPU only, as number 0.
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device(name, local_rank=1) == torch.device("cuda", 0)


@pytest.mark.usefixtures("gpus")
def test_one_gpu_for_several_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    set_ranks(monkeypatch, local_size=1)  # one process on each machine
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    set_ranks(monkeypatch, local_size=2)
    with pytest.raises(UsageError, match="2 processes on this machine would share one GPU; use --device cuda"):
        choose_device("cuda:0")
