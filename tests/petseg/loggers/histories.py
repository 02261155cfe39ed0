"""Epochs as in metrics.jsonl, made up."""

from __future__ import annotations

from typing import Any

import numpy as np

from petseg.inference.metrics import score


def entry(epoch: int, classes: int, *, validated: bool = True) -> dict[str, Any]:
    """A line of metrics.jsonl with scores of a random confusion matrix; the last class never occurs."""
    import msgspec

    matrix = np.random.default_rng(epoch).integers(1, 100, (classes, classes))
    matrix[-1] = matrix[:, -1] = 0
    scores = {"loss": 1 / epoch, **msgspec.to_builtins(score(matrix))}
    return {
        "epoch": epoch,
        "step": 12 * epoch,
        "size": (32, 32),
        "learning_rate": 0.01,
        "train": scores,
        "val": scores if validated else None,
        "pictures_per_second": 50.0,
        "wait_share": 0.125,
        "best": True,
    }
