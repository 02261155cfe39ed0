"""A run's metrics by epoch, as in metrics.jsonl, and whether its validation or its training scores count."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

History: TypeAlias = Sequence[Mapping[str, Any]]


def judged_part(history: History) -> tuple[Literal["val", "train"], History]:
    """Return the part whose scores count, and the epochs that have it: ``val`` if any epoch was validated."""
    validated = [entry for entry in history if entry["val"]]
    return ("val", validated) if validated else ("train", history)
