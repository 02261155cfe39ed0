"""Middle, spread, and whether two sets of repeats differ. Pure functions of lists of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

FLOOR = math.log(1.08)  # differences below 8 % are not told: runs of the same thing differ by some percent
ERRORS = 3.0  # a difference must be this many standard errors
CHANCE = 0.02  # and its rank order this unlikely (one-sided) if both were the same
NORMAL_PER_MEAN_GAP = math.sqrt(math.pi) / 2  # standard deviation over the mean distance of two normal variates


@dataclass(frozen=True)
class Spread:
    """The middle of some repeats, and their extremes."""

    median: float
    least: float
    most: float


def spread(values: Sequence[float]) -> Spread:
    """Return median, least and greatest value."""
    return Spread(median(values), min(values), max(values))


def percentile(values: Sequence[float], part: float) -> float:
    """Return the smallest value that at least ``part`` (0..1) of the values do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]


@dataclass(frozen=True)
class Difference:
    """How B stands to A.

    Attributes:
        ratio: B's rate over A's: the Hodges-Lehmann estimate, the median of all quotients of a repeat of each.
        margin: the ratio must lie beyond ``1 / margin .. margin`` to count.
        chance: how likely so uneven a rank order is if both were the same, one-sided.
        changed: the decision.
    """

    ratio: float
    margin: float
    chance: float
    changed: bool


def compare(a: Sequence[float], b: Sequence[float], *, noise: float = 0.0, drift: float = 0.0) -> Difference:
    """Decide whether B's rates differ from A's beyond the noise.

    Of each five repeats the slowest is left out: other work on the machine can only slow a repeat down, and a single
    one that it hit must neither make a change nor hide one. All of these must hold for a change: the ratio is beyond
    8 % (plus ``drift``); it is beyond three standard errors; and the exact rank test (Mann-Whitney) gives at most 0.02.

    Args:
        a: rates of the repeats of the first run, all positive.
        b: of the second run.
        noise: standard deviation of the logarithm of a repeat's rate, as all lines of both runs show it; a line's own
            is used where it is greater, so that a line that was quiet by luck is not overrated.
        drift: logarithm by which the machine itself differed between the runs.
    """
    a, b = undisturbed(a), undisturbed(b)
    logs_a, logs_b = [math.log(value) for value in a], [math.log(value) for value in b]
    shift = median(y - x for x in logs_a for y in logs_b)
    own = math.sqrt((deviation(logs_a) ** 2 + deviation(logs_b) ** 2) / 2)
    error = max(own, noise) * math.sqrt(1 / len(a) + 1 / len(b))
    margin = max(FLOOR + abs(drift), ERRORS * error)
    chance = rank_chance(a, b)
    return Difference(math.exp(shift), math.exp(margin), chance, changed=abs(shift) > margin and chance <= CHANCE)


def undisturbed(rates: Sequence[float]) -> list[float]:
    """Return the rates without the slowest fifth, rounded down."""
    return sorted(rates)[len(rates) // 5 :]


def deviation(values: Sequence[float]) -> float:
    """Return the standard deviation as Gini's mean distance tells it: for few values steadier than the usual formula,
    and less moved by one stray value.
    """
    gaps = [abs(x - y) for x, y in combinations(values, 2)]
    return NORMAL_PER_MEAN_GAP * sum(gaps) / len(gaps) if gaps else 0.0


def pooled_noise(runs: Sequence[Sequence[float]]) -> float:
    """Return the typical standard deviation of the logarithm of an undisturbed repeat's rate: the lines' median."""
    spreads = [deviation([math.log(value) for value in undisturbed(rates)]) for rates in runs if len(rates) > 1]
    return median(spreads) if spreads else 0.0


def rank_chance(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the exact one-sided probability of a rank order at least as uneven as this one (Mann-Whitney's U).

    Counts, over all ways to choose which of the pooled repeats are A's, those with no more pairs in the rarer order.
    """
    uneven = min(_wins(a, b), _wins(b, a))
    counts = _arrangements(len(a), len(b))
    return sum(count for wins, count in enumerate(counts) if wins <= uneven) / math.comb(len(a) + len(b), len(a))


def _wins(a: Sequence[float], b: Sequence[float]) -> float:
    """Number of pairs in which A is greater; equal ones count half."""
    return sum((x > y) + 0.5 * (x == y) for x in a for y in b)


def _arrangements(n: int, m: int) -> list[int]:
    """Number of arrangements of n and m repeats by their number of wins 0..n*m: the Gaussian binomial coefficient."""
    counts = [1] + [0] * (n * m)
    for i in range(1, m + 1):
        for wins in range(n * m, n + i - 1, -1):  # times (1 - q^(n + i))
            counts[wins] -= counts[wins - n - i]
        for wins in range(i, n * m + 1):  # divided by (1 - q^i)
            counts[wins] += counts[wins - i]
    return counts
