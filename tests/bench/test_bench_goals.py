"""The project's goals on made-up results: which are told, what counts as reached, what is said to limit them."""

from __future__ import annotations

from typing import Any

import pytest
from bench_results import environment, line, results
from msgspec.structs import replace

from bench.goals import LOADER_GOALS, baseline_of, settled, times_baseline, times_text, verdicts
from bench.results import BuildLine, Limit, Line, Results, SoakLine, StartLine

MIB = 1 << 20


def tutorial(rate: float, **changes: Any) -> Line:
    return line("tutorial source", [rate] * 5, **{"name": f"tutorial {changes}", **changes})


def ours(storage: str, rate: float, **changes: Any) -> Line:
    return line(f"petseg {storage} torch", [rate] * 5, **{"name": f"{storage} {changes}", "default": True, **changes})


def run(*lines: Line, **changes: Any) -> Results:
    return results([1.0], [1.0], **{"lines": lines, **changes})


def told(found: Results) -> dict[str, bool]:
    return {verdict.goal: verdict.reached for verdict in verdicts(found)}


@pytest.mark.parametrize("goal", LOADER_GOALS, ids=lambda goal: goal.text)
def test_each_goal_is_reached_at_its_figure_and_not_below(goal: Any) -> None:
    kind = {"augment": goal.augment, "mask": goal.mask}
    for part, reached in ((1.0, True), (0.996, True), (0.994, False)):
        found = run(tutorial(100, **kind), ours(goal.storage, 100 * goal.times * part, **kind))
        assert told(found) == {goal.text: reached}
        (verdict,) = verdicts(found)
        assert verdict.asked == f"{goal.times:g}x the tutorial"
        assert verdict.measured.endswith(" and 100)")


def test_only_the_engine_that_is_taken_by_itself_counts() -> None:
    fast = ours("source", 1000, default=False)
    assert told(run(tutorial(100), fast)) == {}
    assert told(run(tutorial(100), fast, ours("source", 200, name="slow"))) == {LOADER_GOALS[0].text: False}


def test_the_faster_of_threads_and_processes_counts_and_is_named() -> None:
    def processes(rate: float) -> Any:
        return ours("jpeg", rate, name="petseg jpeg processes", engine="processes", default=False, workers=3)

    (verdict,) = verdicts(run(tutorial(100), ours("jpeg", 2000), processes(3100)))
    assert (verdict.reached, verdict.measured) == (True, "31.0x (3,100 and 100), 3 processes")
    (verdict,) = verdicts(run(tutorial(100), ours("jpeg", 3200), processes(3100)))
    assert (verdict.reached, verdict.measured) == (True, "32.0x (3,200 and 100)")


def test_the_tutorial_must_have_done_the_same_work() -> None:
    base = tutorial(100)
    assert baseline_of(ours("raw", 1), run(base)) == base
    assert times_baseline(ours("raw", 250), run(base)) == 2.5
    assert times_baseline(ours("raw", 250, cache="cold"), run(base)) is None
    for other in ({"augment": True}, {"mask": "index"}, {"cache": "cold"}, {"device": "cuda"}):
        assert times_baseline(ours("raw", 250), run(tutorial(100, **other))) is None
        assert told(run(tutorial(100, **other), ours("raw", 9e9))) == {}


@pytest.mark.parametrize("changes", [{"size": 64}, {"batch_size": 16}])
def test_goals_for_loaders_are_for_their_size_and_batch(changes: dict[str, int]) -> None:
    settings = {"size": 128, "batch_size": 32, **changes}
    assert told(run(tutorial(100), ours("source", 1000), settings=settings)) == {}


def test_cold_lines_and_lines_on_a_gpu_reach_nothing() -> None:
    for other in ({"cache": "cold"}, {"device": "cuda"}):
        assert told(run(tutorial(100), ours("source", 1000, **other))) == {}


def test_what_the_cores_would_allow_is_told() -> None:
    limits = (Limit(name="copy", storage="", rates=(2000.0,), how=""),
              Limit(name="decode", storage="source", rates=(500.0,), how=""))  # fmt: skip
    (verdict,) = verdicts(run(tutorial(100), ours("source", 250), limits=limits))
    assert "copy, decode alone would allow 4.00x" in verdict.limited_by
    (verdict,) = verdicts(run(tutorial(100), ours("source", 250), limits=()))
    assert "allow" not in verdict.limited_by


@pytest.mark.parametrize(("times", "text"), [(2.466, "2.47x"), (34.14, "34.1x"), (213.7, "214x"), (1234.0, "1,234x")])
def test_ratios_are_shown_as_people_read_them(times: float, text: str) -> None:
    assert times_text(times) == text


def starts(first_batch: float) -> tuple[StartLine, ...]:
    return (
        StartLine(name="import torch", storage="", seconds=(2.0, 9.0, 2.0)),
        StartLine(name="import torchvision", storage="", seconds=(50.0,) * 3),
        StartLine(name="first batch, raw", storage="raw", seconds=(first_batch, first_batch, 0.1)),
    )


def test_a_start_is_held_against_importing_torch() -> None:
    goal = "`raw`: fresh process to first batch"
    assert told(run(starts=starts(3.0))) == {goal: True}
    assert told(run(starts=starts(3.05))) == {goal: False}
    assert told(run(starts=starts(3.0)[1:])) == {}
    (verdict,) = verdicts(run(starts=starts(3.0)))
    assert verdict.measured == "1.50x (3.00 s and 2.00 s)"
    assert verdict.limited_by == "67% of it is `import torch` itself"
    assert verdicts(run(starts=starts(1.9)))[0].limited_by.startswith("100% of it")  # noise, not more than all


def soak(*memory: float) -> tuple[SoakLine, ...]:
    return (
        SoakLine(name="raw", epochs=len(memory), samples=8, batch_bytes=3 * MIB, prefetch=2,
                 memory_bytes=tuple(round(one * MIB) for one in memory)),
    )  # fmt: skip


def test_memory_is_flat_where_the_last_tenth_is_as_the_second() -> None:
    early, late = settled(tuple(range(100)))
    assert (early, late) == (14.5, 94.5)
    start, flat = [100.0] * 10, [500.0] * 90
    goal = "memory over 100 epochs, raw"
    assert told(run(soak=soak(*start, *flat))) == {goal: True}  # what the first epochs allocate is no leak
    assert told(run(soak=soak(*start, *flat[:-10], *[509.0] * 10))) == {goal: True}
    assert told(run(soak=soak(*start, *flat[:-10], *[512.0] * 10))) == {goal: False}
    assert told(run(soak=soak(*(500.0 + epoch for epoch in range(100))))) == {goal: False}
    (verdict,) = verdicts(run(soak=soak(*start, *flat)))
    assert verdict.measured == "500 MiB, then 500 MiB"
    assert verdict.limited_by == "6.0 MiB of it are the 2 batches kept ready"


def test_a_short_soak_tells_nothing() -> None:
    assert told(run(soak=soak(*[500.0] * 19))) == {}
    assert len(told(run(soak=soak(*[500.0] * 20)))) == 1


def packing(rate: float, *, workers: int, limit: str = "") -> BuildLine:
    return BuildLine(name=f"petseg raw, {workers} workers", seconds=(100 / rate,) * 3, pictures=100, workers=workers,
                     bytes=1, peak_memory_bytes=1, limit=limit, cpu_seconds=(0.2,) * 3)  # fmt: skip


@pytest.mark.parametrize(
    ("alone", "both", "share", "scaling"), [(100, 450, True, True), (300, 450, True, False), (100, 400, False, True)]
)
def test_packing_is_held_against_its_limit_and_against_one_process(
    alone: float, both: float, share: bool, scaling: bool
) -> None:
    limit = Limit(name="make raw", storage="raw", rates=(500.0,), how="decoding alone, libjpeg-turbo")
    found = run(kind="build", limits=(limit,), environment=environment(cores=2),
                build=(packing(alone, workers=1), packing(both, workers=2, limit="make raw")))  # fmt: skip
    assert told(found) == {"`raw`, 2 processes": share, "`raw`, 2 processes beside one": scaling}
    first = verdicts(found)[0]
    assert first.asked == "0.9 of decoding alone"
    assert first.limited_by.startswith("2.00 processor seconds for 1,000, the limit takes 4.00; cores ")


def test_what_keeps_two_processes_from_twice_the_speed_is_told() -> None:
    """Of 100 pictures in 1 s and, with two processes, in 0.625 s: a fifth more work, on cores that are 96 % busy."""
    limit = Limit(name="make raw", storage="raw", rates=(500.0,), how="decoding alone, libjpeg-turbo")
    one = replace(packing(100, workers=1), cpu_seconds=(1.0,) * 3)
    two = replace(packing(160, workers=2, limit="make raw"), cpu_seconds=(1.2,) * 3)
    found = run(kind="build", limits=(limit,), build=(one, two))
    assert verdicts(found)[1].limited_by == (
        "12.00 processor seconds for 1,000, 10.00 in one process; cores 96% busy, 100% with one"
    )
    unknown = run(kind="build", limits=(limit,), build=(replace(one, cpu_seconds=()), two))
    assert verdicts(unknown)[1].limited_by == ""


def test_packing_without_a_limit_has_no_goal() -> None:
    assert told(run(kind="build", limits=(), build=(packing(100, workers=2),))) == {}
