"""The project's goals and what a run measured: reached or not; how far a loader is from what is possible, and what
limits it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from msgspec.structs import replace

from bench.results import records
from bench.results.records import BASELINE, OURS, BuildLine, Limit, LoaderLine, Results

STATED_FOR = {"size": "128", "batch_size": 32, "fit": "stretch"}  # loaders
TOLERANCE = 0.005  # 2.495 is shown, and counts, as 2.5
NEAR = 0.7  # of a limit: from there on, that part of the work is what bounds a loader
BUSY = 0.85  # of the cores' time: from there on, the processor is


class Goal(NamedTuple):
    """``line`` has at least ``factor`` times the value of ``baseline``, both named as :func:`_measured` does."""

    title: str
    line: str
    baseline: str
    factor: float
    asked: str


MAKING = {"source": "decoding alone", "jpeg": "decoding, resizing, encoding", "raw": "decoding and resizing"}
# In place of a peer's name: the fastest of the others with the same work, and of those that decode at a reduced scale.
BEST, BEST_SCALED = "best", "best, scaled"
AGAINST = {BASELINE: "the tutorial", BEST: "the best other loader", BEST_SCALED: "the best other that does so"}
SCALED_TITLE = 'evaluation, one-hot, `decode="scaled"`'
LOADER_GOALS = tuple(
    Goal(f"`{storage}`, {title}", f"petseg {storage}{work}",
         f"{peer} {'source' if peer == BASELINE else storage}{work.removeprefix(' scaled')}", factor,
         f"{factor:g}x {AGAINST[peer]}")
    for storage, work, title, peer, factor in (
        ("source", "", "evaluation, one-hot", BEST, 1.3),
        ("source", " scaled", SCALED_TITLE, BEST_SCALED, 1.5),
        ("source", " scaled", SCALED_TITLE, BASELINE, 2.5),
        ("source", " cold", "evaluation, one-hot, cold cache", BEST, 1.2),
        ("jpeg", "", "evaluation, one-hot", BEST, 1.25),
        ("raw", "", "evaluation, one-hot", BEST, 1.5),
        ("raw", " index", "evaluation, class index", BEST, 1.5),
        ("jpeg", " augmented", "training augmentation, one-hot", BASELINE, 25),
        ("raw", " augmented", "training augmentation, one-hot", BASELINE, 60),
    )
)  # fmt: skip
GOALS = (
    *LOADER_GOALS,
    *(Goal(f"`{x}`, packed by all cores", f"pack {x}", f"make {x}", 0.9, f"0.9x {how}") for x, how in MAKING.items()),
    *(Goal(f"`{x}`, packed by all cores vs. one", f"pack {x}", f"cores times one {x}", 0.9, "0.9x for each core")
      for x in MAKING),
)  # fmt: skip


class Measured(NamedTuple):
    """One side of a goal: its value, how it is written, and what is known of the line."""

    value: float
    text: str
    line: LoaderLine | BuildLine | None = None


@dataclass(frozen=True)
class Verdict:
    """A goal, what was asked, what was measured, and what limits it."""

    goal: str
    asked: str
    measured: str
    reached: bool
    limited_by: str


def verdicts(results: Results) -> list[Verdict]:
    """Judge every goal of which this run measured both sides. No loader is the best of those that --peers names."""
    measured, found, chosen = _measured(results), [], bool(results.settings.get("peers"))
    stated = all(results.settings.get(name) == value for name, value in STATED_FOR.items())
    for goal in GOALS if stated else GOALS[len(LOADER_GOALS) :]:
        if chosen and goal.baseline.startswith(BEST):
            continue
        if (line := measured.get(goal.line)) and (base := measured.get(goal.baseline)):
            ratio = line.value / base.value
            missing = "".join(f", without {name}" for name in _not_installed(goal, results))
            text = f"{ratio_text(ratio)} ({line.text} and {base.text}{missing})"
            reached = ratio >= goal.factor * (1 - TOLERANCE)
            found.append(Verdict(goal.title, goal.asked, text, reached, _limited_by(line, base, results)))
    return found


def times_baseline(line: LoaderLine, results: Results) -> float | None:
    """Return a line's rate over that of the tutorial with the same work, on the CPU; None where it was not measured."""
    base = replace(line.work, peer=BASELINE, storage="source", engine="", device="cpu")
    return next((line.rate / other.rate for other in results.lines if other.work == base), None)


def ratio_text(times: float) -> str:
    """Return a ratio as 2.47x, 34.1x, 214x."""
    return f"{times:.2f}x" if times < 10 else f"{times:.1f}x" if times < 100 else f"{times:,.0f}x"


def _not_installed(goal: Goal, results: Results) -> list[str]:
    """Return the loaders that the best other one might have been, had they been installed."""
    work = goal.baseline.removeprefix(BEST_SCALED).removeprefix(BEST)
    found = (each.name.partition(" ") for each in results.skipped if each.reason.startswith(records.NOT_INSTALLED))
    return [peer for peer, _, rest in found if f" {rest}" == work]


def _measured(results: Results) -> dict[str, Measured]:
    """Name every value that a goal may compare. The faster of petseg's engines on the CPU stands for it: the others
    have their best number of workers, too.
    """
    found: dict[str, Measured] = {}
    for line in sorted(results.lines, key=lambda line: line.rate):
        work, rate = line.work, f"{line.rate:,.0f}"
        how = f" with {line.workers} processes" if work.engine == records.PROCESSES else ""
        scaled = work.engine == records.SCALED_DECODING
        found[(work if scaled else replace(work, engine="")).name] = Measured(line.rate, rate + how, line)
        if work.peer != OURS:
            found[replace(work, peer=BEST).name] = Measured(line.rate, f"{rate} by {work.peer}", line)
            if records.SCALED_CAVEAT in line.caveats:
                found[replace(work, peer=BEST_SCALED).name] = found[replace(work, peer=BEST).name]
    found |= {limit.name: Measured(limit.rate, f"{limit.rate:,.0f}") for limit in results.limits}
    for packing in (line for line in results.build if line.limit):
        storage = packing.limit.removeprefix("make ")
        found[f"pack {storage}"] = Measured(packing.rate, f"{packing.rate:,.0f}", packing)
        for one in results.build:
            if packing.workers > one.workers == 1 and one.name.startswith(f"petseg {storage},"):
                text = f"{packing.workers} x {one.rate:,.0f}"
                found[f"cores times one {storage}"] = Measured(packing.workers * one.rate, text, one)
    return found


def _limited_by(measured: Measured, base: Measured, results: Results) -> str:
    """Say what bounds a line."""
    line, one, cores = measured.line, base.line, results.environment.cores
    if isinstance(line, LoaderLine):
        text, parts = bound(line, results.limits, cores), limits_for(line, results.limits)
        most = 1 / sum(1 / rate for rate in parts.values()) / base.value if parts else 0.0
        return f"{text}; {', '.join(parts)} alone would allow {ratio_text(most)}" if parts else text
    assert line is not None
    if not (cost := line.cpu_seconds_per_thousand):
        return ""
    other, busy = f"the limit takes {1000 * cores / base.value:.2f}", f"cores {_busy(line, line.workers):.0%} busy"
    if isinstance(one, BuildLine):
        other = f"{one.cpu_seconds_per_thousand:.2f} in one process"
        busy += f", {_busy(one, one.workers):.0%} with one"
    return f"{cost:.2f} processor seconds for 1,000, {other}; {busy}"


def _busy(line: LoaderLine | BuildLine, cores: int) -> float:
    return line.cpu_seconds_per_thousand / 1000 * line.rate / cores


def limits_for(line: LoaderLine, limits: Sequence[Limit]) -> dict[str, float]:
    """Return the limits that hold for a line on the CPU: images per second by name.

    Decoding counts at its scaled rate where that was measured, since a loader is free to decode at a smaller scale.
    """
    work = line.work
    held = [each for each in limits if each.storage in ("", work.storage) and each.mask in ("", work.mask)]
    found = {each.name: each.rate for each in held if work.device == "cpu"}
    if "decode, scaled" in found:
        found["decode"] = max(found.pop("decode, scaled"), found.get("decode", 0.0))
    return found


def share_of_limit(line: LoaderLine, limits: Sequence[Limit]) -> float | None:
    """Return a line's rate over what all necessary parts together allow: reading, decoding, writing the output once.

    The parts share the cores, so their times add up: 1 / (1/read + 1/decode + 1/copy). None without limits.
    """
    found = limits_for(line, limits)
    return line.rate * sum(1 / rate for rate in found.values()) if found else None


def bound(line: LoaderLine, limits: Sequence[Limit], cores: int) -> str:
    """Return what bounds a line: a part of the work that alone takes 70 % of the time or more; else the processor, if
    the cores were 85 % busy or more; else waiting.
    """
    parts, busy = limits_for(line, limits), _busy(line, cores)
    name = min(parts, key=lambda part: parts[part], default="")
    if name and line.rate >= NEAR * parts[name]:
        return name
    return f"processor, {busy:.0%} busy" if busy >= BUSY else f"waiting, cores {busy:.0%} busy"
