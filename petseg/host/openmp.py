"""How long torch's OpenMP threads spin while they wait; must be set before torch is imported."""

import os
from collections.abc import MutableMapping

SPINS = "1000"


def configure_openmp(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let torch's threads spin briefly while they wait, unless the user has set a wait policy.

    GNU OpenMP reads this when torch is imported. By default its threads spin for milliseconds, which slows a machine
    that is busy with anything else severalfold; without any spinning an idle machine loses a third of its speed
    (docs/performance.md).
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", SPINS)
