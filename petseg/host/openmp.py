"""How torch's threads wait for each other, which is to be settled before torch is imported."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

__all__ = ["settle_openmp"]

SPINS = "1000"


def settle_openmp(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let torch's threads spin for a moment, and no longer, unless the user has said how they shall wait.

    Read by torch's OpenMP (GNU's) when torch is imported. By default its threads spin for milliseconds: on a machine
    that does anything else besides, that costs several times the speed. Not to spin at all costs a third of it on an
    idle one. A moment is good on both: docs/performance.md has the figures.
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", SPINS)
