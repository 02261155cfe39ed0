"""What a run changes in its process ends with the run."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch

from petseg.host.device import choose_device, choose_placement, cpu_threads
from petseg.host.distributed import World, world_from_environment
from shards import cores
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


def test_the_number_of_threads_follows_affinity_and_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as the cores that this process may use and its container's quota allow, shared among local ranks."""
    before = torch.get_num_threads()
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)), raising=False)
    for quota, ranks, expected in ((None, 1, 12), (6.5, 1, 6), (6.5, 2, 3), (0.5, 1, 1), (40.0, 1, 12), (None, 99, 1)):
        monkeypatch.setattr(cores, "cpu_quota", lambda quota=quota: quota)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        with cpu_threads(None) as count:
            assert count == torch.get_num_threads() == expected
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    monkeypatch.delattr(os, "sched_getaffinity")  # macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    with cpu_threads(None) as count:
        assert count == 5
    assert torch.get_num_threads() == before


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
    with pytest.raises(UsageError, match="2 processes on this machine would share one GPU; use device='cuda'"):
        choose_device("cuda:0")


@pytest.mark.parametrize("precision", ["int8", "", "FP32", None, 16])
def test_a_precision_that_there_is_not(precision: Any) -> None:
    with pytest.raises(UsageError, match=r"precision=.*: choose from auto, fp32, bf16, fp16"):
        choose_placement(torch.device("cpu"), precision)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("WORLD_SIZE", "two", "WORLD_SIZE is 'two', not a whole number of at least 1"),
        ("WORLD_SIZE", "0", "WORLD_SIZE is '0', not a whole number of at least 1"),
        ("WORLD_SIZE", "9" * 5000, "WORLD_SIZE is '9+\\.\\.\\.9+', not a whole number"),
        ("RANK", "4", "RANK is '4', not a whole number from 0 to 3"),
        ("RANK", "-1", "RANK is '-1', not a whole number from 0 to 3"),
        ("LOCAL_RANK", "1.0", "LOCAL_RANK is '1.0', not a whole number of at least 0"),
        ("LOCAL_WORLD_SIZE", "\u0662\u00b2", "LOCAL_WORLD_SIZE is .*, not a whole number of at least 1"),
    ],
)
def test_variables_that_torchrun_does_not_set_so(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_ranks(monkeypatch, local_size=2)
    assert world_from_environment() == World(rank=1, size=4, local_rank=1, local_size=2)
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=message):
        world_from_environment()


@pytest.mark.parametrize("size", ["", "1"])
def test_a_single_process_needs_no_further_variables(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_ranks(monkeypatch, local_size=2)
    monkeypatch.setenv("WORLD_SIZE", size)
    assert world_from_environment() == World()
