"""``petseg-bench compare``: what changed between two runs, beyond the noise. SciPy has the rank test."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

from bench.results.records import Results
from bench.results.result_page import render
from shards.errors import UsageError

FLOOR = math.log(1.08)  # smaller differences are not reported: runs of the same thing differ by some percent
ERRORS = 3.0  # a difference must be this many standard errors
LEVEL = 0.02  # and its rank order this unlikely (one-sided) if both were the same
NORMAL_PER_MEAN_GAP = math.sqrt(math.pi) / 2  # standard deviation over the mean distance of two normal variates


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


@dataclass(frozen=True)
class ComparedLine(Difference):
    """One line of both runs: median rates in images per second, of how many processes, and the decision."""

    name: str
    before: float
    after: float
    processes: tuple[int, int]
    undecidable: bool  # too few processes for any difference to be reported


@dataclass(frozen=True)
class Comparison:
    """Two runs compared."""

    lines: tuple[ComparedLine, ...]  # those that both have
    changed: int
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    noise: float  # typical standard deviation of a process's rate, relative
    drift: float  # by which factor the machine itself was faster in B
    differences: tuple[str, ...]  # settings and surroundings, in words

    @property
    def passes(self) -> bool:
        """Whether no line became slower, and every line could have shown it."""
        return not any(line.undecidable or (line.changed and line.ratio < 1) for line in self.lines)


def compare_results(a: Results, b: Results) -> Comparison:
    """Compare two runs of the same benchmark, line by line; a :class:`UsageError` says why they have none in common."""
    if a.kind != b.kind:
        raise UsageError(f"one file is of petseg-bench {a.kind}, the other of {b.kind}; compare two of the same")
    lines_a, lines_b = ({line.name: line for line in (*run.lines, *run.train, *run.build)} for run in (a, b))
    rates = {name: (lines_a[name].rates_by_process(), lines_b[name].rates_by_process())
             for name in lines_a if name in lines_b}  # fmt: skip
    if not rates:
        raise UsageError("the two files have no line in common; compare runs with the same options")
    noise, drift = pooled_noise([values for pair in rates.values() for values in pair]), machine_drift(a, b)
    lines = []
    for name, pair in rates.items():
        found, processes = compare(*pair, noise=noise, drift=math.log(drift)), (len(pair[0]), len(pair[1]))
        lines.append(ComparedLine(name=name, before=lines_a[name].rate, after=lines_b[name].rate, processes=processes,
                                  undecidable=not can_report(*processes), **asdict(found)))  # fmt: skip
    return Comparison(
        lines=tuple(lines), changed=sum(line.changed for line in lines), noise=noise, drift=drift,
        only_a=tuple(x for x in lines_a if x not in lines_b), only_b=tuple(x for x in lines_b if x not in lines_a),
        differences=tuple(what_differs(a, b)),
    )  # fmt: skip


def machine_drift(a: Results, b: Results) -> float:
    """Return by which factor the machine was faster in B, from limits that no loader has a part in.

    The factor nearest to 1 among the limits that both runs measured: what all of them show is the machine, what one
    alone shows is noise.
    """
    before, after = ({(x.name, x.storage, x.mask): x.rate for x in run.limits} for run in (a, b))
    factors = [after[key] / before[key] for key in before if key in after]
    if not factors or min(factors) <= 1 <= max(factors):
        return 1.0
    return min(factors, key=lambda factor: abs(math.log(factor)))


def what_differs(a: Results, b: Results) -> Iterator[str]:
    """Yield in words what makes the two runs less than comparable."""
    facts_a, facts_b = _facts(a), _facts(b)
    for name in dict.fromkeys([*facts_a, *facts_b]):
        if facts_a.get(name) != facts_b.get(name):
            yield f"{name}: {facts_a.get(name)} and {facts_b.get(name)}"
    for label, run in (("A", a), ("B", b)):
        load = run.environment.load_before
        if load is not None and load > 0.5 * run.environment.cores:
            yield f"the machine was busy before {label} began: load {load} on {run.environment.cores} cores"


def _facts(run: Results) -> dict[str, Any]:
    names, ignored = ("cpu", "cores", "system", "gpu"), {"shards", "source", "work", "repeats", "peers"}
    facts = {name: getattr(run.environment, name) for name in names} | run.environment.versions
    facts |= {"data": run.data.fingerprint, "split": run.data.split}
    return facts | {f"option {name}": value for name, value in run.settings.items() if name not in ignored}


def comparison_text(comparison: Comparison) -> str:
    """Return the comparison for people: what changed first."""
    lines = sorted(comparison.lines, key=lambda line: -line.changed)
    never = sorted({line.processes for line in lines if line.undecidable})
    return render("comparison.txt.jinja", comparison=comparison, lines=lines, never=never, level=LEVEL)


def compare(a: Sequence[float], b: Sequence[float], *, noise: float = 0.0, drift: float = 0.0) -> Difference:
    """Decide whether B's rates differ from A's beyond the noise.

    Of each five values the slowest is left out: other work on the machine can only slow one down, and a single one that
    it hit must neither make a change nor hide one. All of these must hold for a change: the ratio is beyond 8 % (plus
    ``drift``); it is beyond three standard errors; and the exact rank test (Mann-Whitney) gives at most 0.02.

    A :class:`UsageError` says that SciPy is missing.

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
    chance = min(float(mannwhitneyu(logs_a, logs_b, alternative=x, method="exact").pvalue) for x in ("less", "greater"))
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
