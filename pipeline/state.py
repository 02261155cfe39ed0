"""The state of a loader: where it stands, and what that is valid for."""

from collections.abc import Mapping
from typing import Any, TypeGuard

from pipeline.runtime.batch_plan import BatchPlan
from shards.errors import UsageError
from shards.format.geometry import size_text

VERSION = 2

# What a saved state must have in common with the loader that loads it, with names for messages.
BOUND = {
    "fingerprint": "the shard set's content",
    "split": "split",
    "samples": "number of samples",
    "seed": "seed",
    "batch_size": "batch_size (global)",
    "drop_last": "drop_last",
    "size": "size",
    "fit": "fit",
    "crop_scale": "crop_scale",
    "decode": "decode",
    "shuffle": "shuffle",
    "augment": "augment",
}


def bound_values(plan: BatchPlan) -> dict[str, Any]:
    """Return the values of :data:`BOUND` for a loader, as plain JSON values."""
    split, options = plan.reader.split, plan.options
    return {
        "fingerprint": split.manifest.fingerprint,
        "split": split.name,
        "samples": plan.slices.samples,
        "seed": plan.seed,
        "batch_size": plan.slices.batch_size,
        "drop_last": plan.slices.drop_last,
        "size": size_text(options.size),
        "fit": options.fit,
        "crop_scale": None if options.crop_scale is None else list(options.crop_scale),
        "decode": options.decode,
        "shuffle": plan.shuffle,
        "augment": None if options.augment is None else options.augment.to_json(),
    }


def check_state(state: Mapping[str, Any], *, batches: int, bound: Mapping[str, Any]) -> tuple[int, int]:
    """Return (epoch, batch) of a saved state; ``UsageError`` names what is wrong with it or does not fit the loader."""
    version = state.get("version") if isinstance(state, Mapping) else None
    if _is_count(version) and version < VERSION:
        raise UsageError(
            f"this loader state was saved by an earlier petseg (version {version}; this one reads {VERSION}), for a "
            "shard set of an earlier format; build the set again and start a new run"
        )
    if version != VERSION:
        raise UsageError(f"this is not a loader state of version {VERSION} (version: {version!r})")
    state = {"drop_last": False, "decode": "full", **state}  # which earlier states lack
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
