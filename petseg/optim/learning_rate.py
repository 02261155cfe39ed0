"""The learning rate as a pure function of the step, so that there is no scheduler state to save."""

import math
from typing import Literal

Schedule = Literal["constant", "cosine", "onecycle"]

_START = 1 / 25  # where the warm-up begins, as a share of the peak (Smith and Topin 2018, as torch's OneCycleLR)


def learning_rate_at(step: int, *, total_steps: int, peak: float, schedule: Schedule, warmup: float) -> float:
    """Return the learning rate of one optimisation step.

    ``constant`` is the peak throughout. ``cosine`` falls from the peak to zero along half a cosine. ``onecycle`` first
    rises along half a cosine for the share ``warmup`` (0..1) of all steps, then falls likewise. Steps count from 0.
    """
    if schedule == "constant":
        return peak
    warmup_steps = warmup * total_steps if schedule == "onecycle" else 0.0
    if step < warmup_steps:
        return peak * (_START + (1 - _START) * _half_cosine(step / warmup_steps))
    return peak * (1 - _half_cosine((step - warmup_steps) / max(total_steps - warmup_steps, 1)))


def _half_cosine(share: float) -> float:
    """Rise smoothly from 0 to 1 as ``share`` does."""
    return (1 - math.cos(math.pi * min(max(share, 0.0), 1.0))) / 2
