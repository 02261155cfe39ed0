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
def storages(made_up_pets: Path, command: Any) -> dict[str, Path]:
    """The made-up pets in each storage, all in the training split."""
    built = {}
    for storage in ("source", "jpeg", "raw"):
        built[storage] = made_up_pets.parent / f"gpu-{storage}"
        options = ["--storage", storage, "--split", "random", "--fractions", "1,0,0"]
        command("petseg-shard", "build", made_up_pets, built[storage], *options)
    return built
