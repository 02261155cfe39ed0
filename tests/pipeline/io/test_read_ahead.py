"""Local samples are announced to the kernel before they are read: each once, and none is delivered in another order."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import Loader
from pipeline.io import read_ahead
from pipeline.runtime import fetch_ahead
from shards.errors import FormatError

if not hasattr(os, "posix_fadvise"):
    pytest.skip("this system has no posix_fadvise", allow_module_level=True)


@pytest.mark.parametrize("most", [1, 1 << 26])  # bytes: batch by batch, or an epoch at once
def test_each_sample_is_announced_once(
    make_set: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    folder = make_set(12, storage="source")
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _, start, length, __: calls.append((start, start + length)))
    monkeypatch.setattr(fetch_ahead, "MOST_AHEAD", most)
    monkeypatch.setattr(read_ahead, "MOST_GAP", -1)  # so that each sample is a call of its own
    with Loader(folder, batch_size=4, size=32, threads=1) as loader:
        order = [batch.index.tolist() for batch in loader]
        rows = loader.split.rows(range(12))
        list(loader)
        list(loader)
    ends = rows["mask_offset"] + rows["mask_length"]
    assert sorted(calls) == sorted(zip(rows["image_offset"].tolist(), ends.tolist(), strict=True))
    if most > 1:
        assert [start for start, _ in calls] == rows["image_offset"].tolist()  # in the order in which they are stored
    monkeypatch.undo()
    with Loader(folder, batch_size=4, size=32, threads=1) as loader:
        assert [batch.index.tolist() for batch in loader] == order


def test_a_damaged_record_is_raised_in_its_turn(make_set: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_set(12, storage="source")
    with Loader(folder, batch_size=4, size=32, shuffle=False, threads=1) as loader:
        plan = loader._plan.batches

        def damaged(*args: object, **more: object) -> object:
            batches = plan(0, 0, endless=False)
            yield next(batches)
            raise FormatError("the table is damaged")

        planned = fetch_ahead.fetched_ahead(loader._plan, damaged())  # type: ignore[arg-type]
        assert next(planned)[0].number == 0
        with pytest.raises(FormatError):
            next(planned)
