"""Engine ``torch`` on a machine with a GPU: the CPU's batches, copied from page-locked memory by another stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import Loader
from pipeline.choose_engine import choose_engine
from pipeline.runtime.device_copies import page_locked

OPTIONS: dict[str, Any] = {"batch_size": 16, "size": 96, "seed": 4, "augment": "train"}
HOW = [{"threads": 1}, {"threads": 4}, {"processes": 2}]


@pytest.mark.parametrize("how", HOW, ids=["one", "four", "processes"])
@pytest.mark.parametrize("mask", ["onehot", "index"])
@pytest.mark.parametrize("storage", ["source", "raw"])
def test_copies_equal_the_cpu(storages: dict[str, Path], storage: str, mask: Any, how: dict[str, int]) -> None:
    """Bit by bit, over two epochs, with the device kept busy so that every copy is late."""
    with Loader(storages[storage], device="cpu", mask=mask, **OPTIONS, **how) as loader:
        expected = [batch for _ in range(2) for batch in loader]
    with Loader(storages[storage], device="cuda", engine="torch", mask=mask, **OPTIONS, **how) as loader:
        assert loader.engine == "torch"
        found = []
        for _ in range(2):
            for batch in loader:
                torch.cuda._sleep(20_000_000)
                found.append((batch, batch.image.clone(), batch.mask.clone()))
        torch.cuda.synchronize()
    for (ours, image, classes), theirs in zip(found, expected, strict=True):
        assert ours.image.device.type == ours.mask.device.type == ours.valid.device.type == "cuda"
        assert ours.image.is_contiguous(memory_format=torch.channels_last)
        for pixels, indices in ((image, classes), (ours.image, ours.mask)):
            assert torch.equal(pixels.cpu(), theirs.image)
            assert torch.equal(indices.cpu(), theirs.mask)


@pytest.mark.parametrize("how", HOW, ids=["one", "four", "processes"])
def test_delivering_copies_never_waits(storages: dict[str, Path], how: dict[str, int]) -> None:
    with Loader(storages["raw"], device="cuda", engine="torch", **OPTIONS, **how) as loader:
        for _ in range(2):
            list(loader)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in loader:
                pass
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_threads_write_into_page_locked_memory() -> None:
    memory = page_locked((2, 3))
    assert torch.from_numpy(memory).is_pinned()
    assert torch.from_numpy(memory.view()).is_pinned()


def test_without_dali_auto_copies(storages: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.choose_engine.dali_problem", lambda: "which is not installed")
    assert choose_engine("auto", device_type="cuda", storage="source")[0] == "torch"
    with Loader(storages["jpeg"], device="cuda", **OPTIONS) as loader:
        assert "not installed" in loader.engine_reason
        assert next(iter(loader)).image.is_cuda


@pytest.mark.parametrize("engine", ["dali", "torch"])
@pytest.mark.parametrize("storage", ["source", "raw"])
def test_memory_is_steady_over_a_hundred_epochs(storages: dict[str, Path], storage: str, engine: Any) -> None:
    """Images of mixed sizes (``source``): of the host and of the device, after 20 epochs and after 100."""
    import psutil

    def used() -> tuple[int, int]:
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        return psutil.Process().memory_info().rss, total - free

    with Loader(storages[storage], device="cuda", engine=engine, **(OPTIONS | {"size": 64})) as loader:
        for epoch in range(100):
            for _ in loader:
                pass
            if epoch == 19:
                early = used()
        late = used()
    assert late[0] - early[0] < 64 << 20
    assert late[1] - early[1] < 64 << 20
