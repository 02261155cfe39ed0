"""Everything here needs CUDA and DALI; elsewhere it is skipped, and says why."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    reason = None
    if not torch.cuda.is_available():
        reason = "no CUDA device: PyTorch finds none"
    elif importlib.util.find_spec("nvidia") is None or importlib.util.find_spec("nvidia.dali") is None:
        reason = "NVIDIA DALI is not installed"
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def storages(synthetic_pets: Path, tmp_path_factory: pytest.TempPathFactory, command: Any) -> dict[str, Path]:
    """The synthetic pets in each storage, all in the training split."""
    return build_storages(synthetic_pets, tmp_path_factory.mktemp("storages"), command)


@pytest.fixture(scope="session")
def large_storages(tmp_path_factory: pytest.TempPathFactory, command: Any) -> dict[str, Path]:
    """A thousand synthetic pets in each storage: enough that starting an epoch does not count for much."""
    folder = tmp_path_factory.mktemp("large")
    command("petseg-shard", "sample", folder / "pets", "--count", "1024", "--seed", "8", timeout=900)
    return build_storages(folder / "pets", folder, command)


def build_storages(pets: Path, folder: Path, command: Any) -> dict[str, Path]:
    built = {}
    for storage in ("source", "jpeg", "raw"):
        built[storage] = folder / f"gpu-{storage}"
        options = ["--storage", storage, "--split", "random", "--fractions", "1,0,0"]
        command("petseg-shard", "build", pets, built[storage], *options)
    return built
