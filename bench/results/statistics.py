"""Whether two sets of repeats differ. Pure functions of lists of numbers; SciPy has the rank test."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from shards.errors import UsageError

FLOOR = math.log(1.08)  # smaller differences are not reported: runs of the same thing differ by some percent
ERRORS = 3.0  # a difference must be this many standard errors
LEVEL = 0.02  # and its rank order this unlikely (one-sided) if both were the same
NORMAL_PER_MEAN_GAP = math.sqrt(math.pi) / 2  # standard deviation over the mean distance of two normal variates


def percentile(values: Sequence[float], part: float) -> float:
    """Return the smallest value that at least ``part`` (0..1) of the values do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]


@dataclass(frozen=True)
class Difference:
    """How B compares with A: ``changed`` is the decision.

    ``ratio`` is B's rate over A's (Hodges-Lehmann: the median of all quotients of a value of each); it must lie beyond
    ``1 / margin .. margin`` to count. ``chance`` is how likely so uneven a rank order is if both were the same,
    one-sided.
    """

    ratio: float
    margin: float
    chance: float
    changed: bool


def compare(a: Sequence[float], b: Sequence[float], *, noise: float = 0.0, drift: float = 0.0) -> Difference:
    """Decide whether B's rates differ from A's beyond the noise.

    Of each five values the slowest is left out: other work on the machine can only slow one down, and a single one that
    it hit must neither make a change nor hide one. All of these must hold for a change: the ratio is beyond 8 % (plus
    ``drift``); it is beyond three standard errors; and the exact rank test (Mann-Whitney) gives at most 0.02.

    Args:
        a: independent rates of the first run, all positive: one of each process.
        b: of the second run.
        noise: standard deviation of a rate's logarithm, as all lines of both runs show it: used where a line's own is
            smaller, so that one that was quiet by luck is not overrated.
        drift: logarithm by which the machine itself differed between the runs.
    """
    logs_a, logs_b = np.log(undisturbed(a)), np.log(undisturbed(b))
    shift = float(np.median(np.subtract.outer(logs_b, logs_a)))
    own = math.sqrt((deviation(logs_a) ** 2 + deviation(logs_b) ** 2) / 2)
    error = max(own, noise) * math.sqrt(1 / len(logs_a) + 1 / len(logs_b))
    margin = max(FLOOR + abs(drift), ERRORS * error)
    try:
        from scipy.stats import mannwhitneyu
    except ImportError:
        raise UsageError("comparing needs SciPy: pip install 'petseg[bench]'") from None
    tests = [mannwhitneyu(logs_a, logs_b, alternative=side, method="exact") for side in ("less", "greater")]
    chance = min(float(test.pvalue) for test in tests)
    return Difference(math.exp(shift), math.exp(margin), chance, changed=abs(shift) > margin and chance <= LEVEL)


def can_report(a: int, b: int) -> bool:
    """Return whether ``a`` and ``b`` values can reach the level at all: in the most uneven of their rank orders."""
    kept_a, kept_b = a - a // 5, b - b // 5
    return 1 / math.comb(kept_a + kept_b, kept_a) <= LEVEL


def undisturbed(rates: Sequence[float]) -> list[float]:
    """Return the rates without the slowest fifth, rounded down."""
    return sorted(rates)[len(rates) // 5 :]


def deviation(values: Sequence[float] | np.ndarray[Any, Any]) -> float:
    """Return the standard deviation from Gini's mean distance: steadier for few values, less moved by a stray one."""
    gaps = np.abs(np.subtract.outer(values, values))
    return NORMAL_PER_MEAN_GAP * float(gaps.sum()) / (len(values) * (len(values) - 1)) if len(values) > 1 else 0.0


def pooled_noise(runs: Sequence[Sequence[float]]) -> float:
    """Return the typical standard deviation of the logarithm of an undisturbed rate: the lines' median."""
    spreads = [deviation(np.log(undisturbed(rates))) for rates in runs if len(rates) > 1]
    return median(spreads) if spreads else 0.0
