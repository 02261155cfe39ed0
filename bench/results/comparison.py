"""``petseg-bench compare``: what changed between two runs, beyond the noise."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from bench.results.records import Results
from bench.results.statistics import LEVEL, Difference, can_report, compare, pooled_noise
from shards.errors import UsageError, printable


@dataclass(frozen=True)
class Compared:
    """One line of both runs: median rates in images per second, the decision, and how many processes it is from."""

    name: str
    before: float
    after: float
    difference: Difference
    processes: tuple[int, int]

    @property
    def undecidable(self) -> bool:
        """Whether it has too few processes for any difference to be reported."""
        return not can_report(*self.processes)


@dataclass(frozen=True)
class Comparison:
    """Two runs compared."""

    lines: tuple[Compared, ...]  # those that both have
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    noise: float  # typical standard deviation of a process's rate, relative
    drift: float  # by which factor the machine itself was faster in B
    differences: tuple[str, ...]  # settings and surroundings, in words

    @property
    def passes(self) -> bool:
        """Whether no line became slower, and every line could have shown it."""
        slower = any(line.difference.changed and line.difference.ratio < 1 for line in self.lines)
        return not slower and not any(line.undecidable for line in self.lines)


def compare_results(a: Results, b: Results) -> Comparison:
    """Compare two runs of the same benchmark, line by line.

    Raises:
        UsageError: they are of different benchmarks, or have no line in common.
    """
    if a.kind != b.kind:
        raise UsageError(f"one file is of petseg-bench {a.kind}, the other of {b.kind}; compare two of the same")
    lines_a, lines_b = ({line.name: line for line in (*run.lines, *run.train, *run.build)} for run in (a, b))
    common = [name for name in lines_a if name in lines_b]
    if not common:
        raise UsageError("the two files have no line in common; compare runs with the same options")
    rates = {name: (lines_a[name].rates_by_process(), lines_b[name].rates_by_process()) for name in common}
    noise, drift = pooled_noise([values for pair in rates.values() for values in pair]), machine_drift(a, b)
    lines = []
    for name, pair in rates.items():
        difference = compare(*pair, noise=noise, drift=math.log(drift))
        processes = len(pair[0]), len(pair[1])
        lines.append(Compared(name, lines_a[name].rate, lines_b[name].rate, difference, processes))
    return Comparison(
        lines=tuple(lines), only_a=tuple(x for x in lines_a if x not in lines_b),
        only_b=tuple(x for x in lines_b if x not in lines_a),
        noise=noise, drift=drift, differences=tuple(what_differs(a, b)),
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


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as plain values."""
    lines = [
        {"name": line.name, "before": line.before, "after": line.after, **asdict(line.difference),
         "processes": line.processes, "undecidable": line.undecidable}
        for line in comparison.lines
    ]  # fmt: skip
    return {**asdict(comparison), "lines": lines, "changed": sum(x.difference.changed for x in comparison.lines)}


def comparison_text(comparison: Comparison) -> str:
    """Return the comparison for people: what changed first."""
    lines = sorted(comparison.lines, key=lambda line: -line.difference.changed)
    width, text = max(len(line.name) for line in lines), []
    for line in lines:
        found = line.difference
        verdict = ("faster" if found.ratio > 1 else "slower") if found.changed else "no change beyond the noise"
        text.append(
            f"{line.name:<{width}}  {line.before:>10,.0f} -> {line.after:>10,.0f} images/s  x{found.ratio:.3f}  "
            f"{verdict} (reported from x{found.margin:.2f} on; chance {found.chance:.3f})"
        )
    for n, m in sorted({line.processes for line in lines if line.undecidable}):
        never = f"{n} and {m} processes can never reach p <= {LEVEL:g}: no change of such a line is ever reported"
        text.append(f"{never}; use --repeats 5 for both runs")
    changed = sum(line.difference.changed for line in lines)
    text.append(f"{changed} of {len(lines)} lines changed; a process's rate varies by {comparison.noise:.1%}")
    if comparison.drift != 1:
        text.append(f"the machine itself ran x{comparison.drift:.3f} as fast in B; margins are widened by that")
    text += [f"differs: {difference}" for difference in comparison.differences]
    text += [f"only in A: {name}" for name in comparison.only_a] + [f"only in B: {name}" for name in comparison.only_b]
    return "\n".join(map(printable, text))
