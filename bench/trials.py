"""Which number of workers is fastest: a climb over the numbers worth trying. Pure arithmetic, no clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def climb(counts: Sequence[int], trial: Callable[[int], float]) -> dict[int, float]:
    """Try the middle number and larger ones as long as they gain; where none does, smaller ones as long as they gain.

    A number beyond one that lost is not tried: more workers than too many are too many.

    Args:
        counts: numbers of workers, ascending; may be empty.
        trial: returns the pictures per second with so many.

    Returns:
        the pictures per second of each number that was tried, in the order of the trials.
    """
    if not counts:
        return {}
    middle = len(counts) // 2
    tried = {counts[middle]: trial(counts[middle])}
    for way in (counts[middle + 1 :], counts[middle - 1 :: -1] if middle else ()):
        for count in way:
            best = max(tried.values())
            tried[count] = trial(count)
            if tried[count] <= best:
                break
        if max(tried, key=lambda count: tried[count]) != counts[middle]:
            break
    return tried
