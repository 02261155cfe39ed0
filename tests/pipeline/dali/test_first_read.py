"""The DALI engine compares a sample with the set's table once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline import Loader
from pipeline.dali import first_read

pytest.importorskip("nvidia.dali.backend", reason="NVIDIA DALI is not installed")


@pytest.mark.parametrize(("storage", "function"), [("source", "decode_mask"), ("raw", "invalid_masks")])
def test_each_sample_is_checked_once(
    sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch, storage: str, function: str
) -> None:
    checked: list[int] = []
    check = getattr(first_read, function)

    def counted(first: Any, *others: Any) -> Any:
        checked.append(len(first) if function == "invalid_masks" else 1)
        return check(first, *others)

    monkeypatch.setattr(first_read, function, counted)
    # Stored order: two batches are prepared at a time, and of shuffled epochs both may have the same sample.
    options: dict[str, Any] = {"shuffle": False, "device": "cpu", "engine": "dali", "threads": 1}
    with Loader(sets[storage], batch_size=8, size=32, **options) as loader:
        for _ in range(3):
            list(loader)
        assert sum(checked) == loader.samples == 40
