"""Copies to a device, with a device that is late: it reads the host's memory only when somebody waits for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import Batch, Loader
from pipeline.io.scratch import Bytes
from pipeline.runtime.device_copies import MOST_COPIES, CopyingEngine, HeldMemory


class LateDevice:
    """Does what a CUDA stream may do at worst: nothing before it must. What it then finds in the memory is copied."""

    def __init__(self) -> None:
        self.queue: list[LateEvent] = []
        self.handed_over = 0

    def copy(self, tensors: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], Any, LateEvent]:
        event = LateEvent(self, list(tensors), [torch.zeros_like(tensor) for tensor in tensors])
        self.queue.append(event)
        return event.copies, None, event

    def hand_over(self, copies: Sequence[torch.Tensor], event: LateEvent) -> None:
        assert list(copies) == event.copies or all(a is b for a, b in zip(copies, event.copies, strict=True))
        self.handed_over += 1

    def run_until(self, event: LateEvent) -> None:
        while not event.passed:
            first = self.queue.pop(0)
            for source, copy in zip(first.sources, first.copies, strict=True):
                copy.copy_(source)
            first.sources, first.passed = [], True


class LateEvent:
    def __init__(self, device: LateDevice, sources: list[torch.Tensor], copies: list[torch.Tensor]) -> None:
        # The addresses alone, as a device has them: holding the tensors would protect the memory.
        self.sources = [torch.from_numpy(memory_at(one.data_ptr(), one.shape, one.stride())) for one in sources]
        self.device, self.copies, self.passed = device, copies, False

    def query(self) -> bool:
        return self.passed

    def synchronize(self) -> None:
        self.device.run_until(self)


def memory_at(address: int, shape: Sequence[int], strides: Sequence[int]) -> Bytes:
    class Memory:
        __array_interface__ = {  # noqa: RUF012
            "data": (address, False),
            "shape": tuple(shape),
            "strides": tuple(strides),
            "typestr": "|u1",
            "version": 3,
        }

    return np.asarray(Memory())


def copying(loader: Loader, device: LateDevice, *, most: int = MOST_COPIES) -> Loader:
    loader._engine = CopyingEngine(loader._engine, device, most=most)
    return loader


def finish(device: LateDevice) -> None:
    if device.queue:
        device.run_until(device.queue[-1])


@pytest.mark.parametrize("how", [{"threads": 1}, {"threads": 3}, {"processes": 2}], ids=["one", "three", "processes"])
@pytest.mark.parametrize("storage", ["source", "raw"])
def test_a_late_device_reads_the_bytes_of_each_batch(
    sets: dict[str, Path], storage: str, how: dict[str, int], campaign: Callable[[int, int], int]
) -> None:
    if (storage, how) == ("source", {"processes": 2}) and not campaign(0, 1):
        pytest.skip("with --campaign: to shrink images, workers import torch; raw ones reuse their memory the soonest")
    size = 96 if "processes" in how and storage == "raw" else 32  # as stored: nothing is shrunk
    options: dict[str, Any] = {"batch_size": 4, "size": size, "device": "cpu", "augment": "train", **how}
    device = LateDevice()
    with Loader(sets[storage], **{**options, "threads": 1, "processes": 0}) as plain:
        expected = [batch for _ in range(2) for batch in plain]
    with copying(Loader(sets[storage], **options), device) as loader:
        found: list[Batch] = [batch for _ in range(2) for batch in loader]
        finish(device)
    assert len(expected) == len(found)
    assert device.handed_over in (len(found), len(found) + 1)  # the next one may have been started before the end
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.index.tolist() == theirs.index.tolist()
        assert torch.equal(ours.image, theirs.image)
        assert torch.equal(ours.mask, theirs.mask)
        assert ours.image.stride() == theirs.image.stride()


def test_without_holding_the_memory_the_test_above_fails(
    sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HeldMemory, "hold", lambda self, what, until: None)
    device, options = LateDevice(), {"batch_size": 4, "size": 32, "device": "cpu", "threads": 1}
    with Loader(sets["raw"], **options) as plain:  # type: ignore[arg-type]
        expected = [batch.image for batch in plain]
    with copying(Loader(sets["raw"], **options), device) as loader:  # type: ignore[arg-type]
        found = [batch.image for batch in loader]
        finish(device)
    assert any(not torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def test_the_host_is_at_most_so_many_copies_ahead(sets: dict[str, Path]) -> None:
    device = LateDevice()
    with copying(Loader(sets["raw"], batch_size=4, size=32, device="cpu", threads=1), device, most=2) as loader:
        for _ in loader:
            assert len(device.queue) <= 2
        assert device.queue


def test_closing_waits_for_copies_that_still_read(sets: dict[str, Path]) -> None:
    device = LateDevice()
    loader = copying(Loader(sets["raw"], batch_size=4, size=32, device="cpu"), device)
    next(iter(loader))
    assert device.queue
    loader.close()
    assert not device.queue


def test_held_memory_drops_what_was_passed() -> None:
    device, held = LateDevice(), HeldMemory(2)
    source = torch.zeros(1, dtype=torch.uint8)
    events = [device.copy([source])[2] for _ in range(4)]
    held.hold("a", events[0])
    held.hold("b", events[1])
    device.run_until(events[1])
    held.hold("c", events[2])
    assert [what for _, what in held._held] == ["c"]
    held.hold("d", events[3])
    assert not events[3].passed
    held.clear()
    assert events[3].passed
