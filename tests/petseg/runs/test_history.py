"""Which part of a run's history it is judged by."""

from __future__ import annotations

from petseg.runs.history import judged_part


def test_validation_counts_where_there_was_any() -> None:
    never = [{"epoch": 1, "val": None}, {"epoch": 2, "val": None}]
    seldom = [*never, {"epoch": 3, "val": {"mean_iou": 0.5}}]
    assert judged_part(never) == ("train", never)
    assert judged_part(seldom) == ("val", seldom[2:])
    assert judged_part([]) == ("train", [])
