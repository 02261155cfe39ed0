"""``petseg-bench compare``: what changed between two runs, beyond the noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.results import Results
from bench.statistics import Difference, compare, pooled_noise, spread
from shards.errors import UsageError


@dataclass(frozen=True)
class Compared:
    """One line of both runs.

    Attributes:
        name: of the line.
        before: median rate in A, pictures per second.
        after: median rate in B.
        difference: the decision.
    """

    name: str
    before: float
    after: float
    difference: Difference


@dataclass(frozen=True)
class Comparison:
    """Two runs beside each other.

    Attributes:
        lines: those that both have.
        only_a, only_b: names of the others.
        noise: typical standard deviation of a repeat, relative.
        drift: by which factor the machine itself was faster in B, told by the limits that both measured; 1 where
            they measured none.
        differences: settings and surroundings that differ, in words.
    """

    lines: tuple[Compared, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    noise: float
    drift: float
    differences: tuple[str, ...]


def compare_results(a: Results, b: Results) -> Comparison:
    """Compare two runs of the same benchmark, line by line.

    Raises:
        UsageError: they are of different benchmarks, or have no line in common.
    """
    if a.kind != b.kind:
        raise UsageError(f"one file is of petseg-bench {a.kind}, the other of {b.kind}; compare two of the same")
    rates_a, rates_b = dict(_rates(a)), dict(_rates(b))
    common = [name for name in rates_a if name in rates_b]
    if not common:
        raise UsageError("the two files have no line in common; compare runs with the same options")
    noise = pooled_noise([rates[name] for name in common for rates in (rates_a, rates_b)])
    drift = machine_drift(a, b)
    return Comparison(
        lines=tuple(
            Compared(
                name=name,
                before=spread(rates_a[name]).median,
                after=spread(rates_b[name]).median,
                difference=compare(rates_a[name], rates_b[name], noise=noise, drift=math.log(drift)),
            )
            for name in common
        ),
        only_a=tuple(name for name in rates_a if name not in rates_b),
        only_b=tuple(name for name in rates_b if name not in rates_a),
        noise=noise,
        drift=drift,
        differences=tuple(what_differs(a, b)),
    )


def machine_drift(a: Results, b: Results) -> float:
    """Return by which factor the machine was faster in B, from limits that no loader has a part in.

    The factor nearest to 1 among the limits that both runs measured: what all of them show is the machine, what one
    alone shows is noise.
    """
    before = {(limit.name, limit.storage): spread(limit.rates).median for limit in a.limits}
    after = {(limit.name, limit.storage): spread(limit.rates).median for limit in b.limits}
    factors = [after[key] / before[key] for key in before if key in after]
    if not factors or min(factors) <= 1 <= max(factors):
        return 1.0
    return min(factors, key=lambda factor: abs(math.log(factor)))


def what_differs(a: Results, b: Results) -> Iterator[str]:
    """Yield in words what makes the two runs less than comparable."""
    for name in ("cpu", "cores", "system", "gpu"):
        one, other = getattr(a.environment, name), getattr(b.environment, name)
        if one != other:
            yield f"{name}: {one} and {other}"
    for name in sorted({*a.environment.versions, *b.environment.versions}):
        versions = [run.environment.versions.get(name, "none") for run in (a, b)]
        if versions[0] != versions[1]:
            yield f"{name}: {versions[0]} and {versions[1]}"
    if a.data.fingerprint != b.data.fingerprint or a.data.split != b.data.split:
        yield "the pictures: other shards, or another split"
    for name in sorted({*a.settings, *b.settings} - {"shards", "source", "work", "repeats", "peers"}):
        if a.settings.get(name) != b.settings.get(name):
            yield f"option {name}: {a.settings.get(name)} and {b.settings.get(name)}"
    for label, run in (("A", a), ("B", b)):
        load = run.environment.load_before
        if load is not None and load > 0.5 * run.environment.cores:
            yield f"the machine was busy before {label} began: load {load} on {run.environment.cores} cores"


def _rates(results: Results) -> Iterator[tuple[str, Sequence[float]]]:
    for line in results.lines:
        yield line.name, line.rates
    for training in results.train:
        yield training.name, training.real_rates
    for packing in results.build:
        yield packing.name, packing.rates


def comparison_json(comparison: Comparison) -> dict[str, object]:
    """Return the comparison as plain values."""
    return {
        "lines": [
            {
                "name": line.name,
                "before": line.before,
                "after": line.after,
                "ratio": line.difference.ratio,
                "margin": line.difference.margin,
                "chance": line.difference.chance,
                "changed": line.difference.changed,
            }
            for line in comparison.lines
        ],
        "changed": sum(line.difference.changed for line in comparison.lines),
        "only_a": list(comparison.only_a),
        "only_b": list(comparison.only_b),
        "noise": comparison.noise,
        "drift": comparison.drift,
        "differences": list(comparison.differences),
    }


def comparison_text(comparison: Comparison) -> str:
    """Return the comparison for people: what changed first."""
    lines = sorted(comparison.lines, key=lambda line: -line.difference.changed)
    width = max(len(line.name) for line in lines)
    text = []
    for line in lines:
        found = line.difference
        verdict = ("faster" if found.ratio > 1 else "slower") if found.changed else "no change beyond the noise"
        text.append(
            f"{line.name:<{width}}  {line.before:>10,.0f} -> {line.after:>10,.0f} pictures/s  x{found.ratio:.3f}  "
            f"{verdict} (told from x{found.margin:.2f} on; chance {found.chance:.3f})"
        )
    changed = sum(line.difference.changed for line in lines)
    text.append(f"{changed} of {len(lines)} lines changed; a repeat varies by {comparison.noise:.1%}")
    if comparison.drift != 1:
        text.append(f"the machine itself ran x{comparison.drift:.3f} as fast in B; margins are widened by that")
    text += [f"differs: {difference}" for difference in comparison.differences]
    text += [f"only in A: {name}" for name in comparison.only_a] + [f"only in B: {name}" for name in comparison.only_b]
    return "\n".join(text)
