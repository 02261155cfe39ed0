"""The state of a loader: where it stands, and what that is valid for."""

from collections.abc import Mapping
from typing import Any, TypeGuard

from shards.errors import UsageError

VERSION = 1

# What a saved state must have in common with the loader that loads it, with names for messages.
BOUND = {
    "fingerprint": "the shard set's content",
    "split": "split",
    "samples": "number of samples",
    "seed": "seed",
    "batch_size": "batch_size (global)",
    "size": "size",
    "shuffle": "shuffle",
    "augment": "augment",
}


def check_state(state: Mapping[str, Any], *, batches: int, bound: Mapping[str, Any]) -> tuple[int, int]:
    """Return (epoch, batch) of a saved state; ``UsageError`` names what is wrong with it or does not fit the loader."""
    if not isinstance(state, Mapping) or state.get("version") != VERSION:
        version = state.get("version") if isinstance(state, Mapping) else None
        raise UsageError(f"this is not a loader state of version {VERSION} (version: {version!r})")
    differences = [
        f"{label}: saved {state.get(name)!r}, now {bound[name]!r}"
        for name, label in BOUND.items()
        if state.get(name) != bound[name]
    ]
    if differences:
        raise UsageError("the saved loader state does not fit this loader; " + "; ".join(differences))
    epoch, batch = state.get("epoch"), state.get("batch")
    if _is_count(epoch) and _is_count(batch) and batch <= batches:
        return epoch, batch
    raise UsageError(f"the saved loader state is damaged: epoch {epoch!r}, batch {batch!r} of {batches}")


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
