"""A run's history, epoch by epoch, as metrics.jsonl holds it: which part of it a run is judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

History: TypeAlias = Sequence[Mapping[str, Any]]


def judged_part(history: History) -> tuple[Literal["val", "train"], History]:
    """Return the part that a run is judged by, and the epochs that have it: validation, where there was any."""
    validated = [entry for entry in history if entry["val"]]
    return ("val", validated) if validated else ("train", history)
