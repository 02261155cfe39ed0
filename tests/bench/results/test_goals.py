"""The project's goals on synthetic results: which are judged, what counts as reached, what is said to limit them."""

from __future__ import annotations

from typing import Any

import pytest
from bench_results import environment, limit, line, repeats, results

from bench.peers.peer import SCALED
from bench.results.goals import GOALS, LOADER_GOALS, STATED_FOR, Goal, ratio_text, times_baseline, verdicts
from bench.results.records import BuildLine, LoaderLine, Results, Skipped


def tutorial(rate: float, **changes: Any) -> LoaderLine:
    return line("tutorial source", [rate] * 5, **changes)


def ours(storage: str, rate: float, **changes: Any) -> LoaderLine:
    return line(f"petseg {storage} torch", [rate] * 5, **changes)


def run(*lines: LoaderLine, **changes: Any) -> Results:
    return results([1.0], [1.0], **{"lines": lines, "limits": (), "skipped": (), **changes})


def judged(found: Results) -> dict[str, bool]:
    return {verdict.goal: verdict.reached for verdict in verdicts(found)}


@pytest.mark.parametrize("goal", LOADER_GOALS, ids=lambda goal: goal.title)
def test_each_loader_goal_is_reached_at_its_figure_and_not_below(goal: Goal) -> None:
    _, storage, *words = goal.line.split()
    engine = "scaled" if "scaled" in words else "torch"
    kind: dict[str, Any] = {"augment": "augmented" in words, "mask": "index" if "index" in words else "onehot",
                            "cache": "cold" if "cold" in words else "warm"}  # fmt: skip
    best = goal.baseline.startswith("best")
    slower = {"caveats": (SCALED.text,), **kind}
    others = [line(f"tuned {storage}", [100] * 5, **slower), line(f"webdataset {storage}", [90] * 5, **slower)]
    for part, reached in ((1.0, True), (0.996, True), (0.994, False)):
        against = others if best else [tutorial(100, **kind)]
        found = run(*against, line(f"petseg {storage} {engine}", [100 * goal.factor * part] * 5, **kind))
        assert judged(found) == {goal.title: reached}
        (verdict,) = verdicts(found)
        assert verdict.asked == goal.asked
        assert verdict.measured.endswith(" and 100 by tuned)" if best else " and 100)")


def test_the_goals_are_those_that_the_project_stated() -> None:
    assert {(goal.line, goal.baseline): goal.factor for goal in LOADER_GOALS} == {
        ("petseg source", "best source"): 1.3,
        ("petseg source scaled", "best, scaled source"): 1.5,
        ("petseg source scaled", "tutorial source"): 2.5,
        ("petseg source cold", "best source cold"): 1.2,
        ("petseg jpeg", "best jpeg"): 1.25,
        ("petseg raw", "best raw"): 1.5,
        ("petseg raw index", "best raw index"): 1.5,
        ("petseg jpeg augmented", "tutorial source augmented"): 25,
        ("petseg raw augmented", "tutorial source augmented"): 60,
    }
    assert len({(goal.title, goal.asked) for goal in GOALS}) == len(GOALS) == 9 + 3 * 2


def test_scaled_decoding_is_no_way_to_the_goal_of_full_decoding() -> None:
    full, scaled = ours("source", 110), line("petseg source scaled", [999] * 5)
    found = judged(
        run(line("ffcv source", [100] * 5), line("tuned source", [90] * 5, caveats=(SCALED.text,)), full, scaled)
    )
    assert found == {"`source`, evaluation, one-hot": False, '`source`, evaluation, one-hot, `decode="scaled"`': True}


def test_the_faster_of_threads_and_processes_counts_and_is_named() -> None:
    def processes(rate: float) -> LoaderLine:
        return line("petseg jpeg processes", [rate] * 5, workers=3)

    best = line("ffcv jpeg", [1000] * 5)
    (verdict,) = verdicts(run(best, ours("jpeg", 1200), processes(3100)))
    assert (verdict.reached, verdict.measured) == (True, "3.10x (3,100 with 3 processes and 1,000 by ffcv)")
    (verdict,) = verdicts(run(best, ours("jpeg", 1260), processes(1100)))
    assert (verdict.reached, verdict.measured) == (True, "1.26x (1,260 and 1,000 by ffcv)")


def test_the_tutorial_must_have_done_the_same_work() -> None:
    assert times_baseline(ours("raw", 250), run(tutorial(100))) == 2.5
    assert times_baseline(ours("raw", 250, cache="cold"), run(tutorial(100))) is None
    for other in ({"augment": True}, {"mask": "index"}, {"cache": "cold"}, {"device": "cuda"}):
        assert times_baseline(ours("raw", 250), run(tutorial(100, **other))) is None
    trained = ours("raw", 9e9, augment=True)
    assert judged(run(tutorial(100, augment=True), trained)) == {"`raw`, training augmentation, one-hot": True}
    for other in ({"augment": False}, {"mask": "index"}, {"cache": "cold"}, {"device": "cuda"}):
        assert judged(run(tutorial(100, **{"augment": True, **other}), trained)) == {}


def test_results_may_have_loaders_that_are_not_known_here() -> None:
    assert judged(run(line("unheard-of raw", [100.0] * 5), ours("raw", 160))) == {"`raw`, evaluation, one-hot": True}


def test_the_best_other_loader_must_have_done_the_same_work() -> None:
    assert judged(run(line("ffcv raw", [100.0] * 5), ours("raw", 9e9))) == {"`raw`, evaluation, one-hot": True}
    for other in ({"augment": True}, {"mask": "index"}, {"cache": "cold"}, {"device": "cuda"}):
        assert judged(run(line("ffcv raw", [100.0] * 5, **other), ours("raw", 9e9))) == {}
    assert judged(run(line("ffcv jpeg", [100.0] * 5), ours("raw", 9e9))) == {}


def test_the_best_of_some_loaders_is_not_the_best_other_loader() -> None:
    two, settings = (line("tuned source", [100.0] * 5), tutorial(90)), {**STATED_FOR, "peers": "petseg,tuned,tutorial"}
    assert judged(run(*two, ours("source", 500), settings=settings)) == {}
    scaled = line("petseg source scaled", [500.0] * 5)
    asked = [verdict.asked for verdict in verdicts(run(*two, scaled, settings=settings))]
    assert asked == ["2.5x the tutorial"]


def test_loaders_that_are_not_installed_are_named_where_the_best_one_counts() -> None:
    reasons = {"ffcv source": "not installed: ffcv", "spdl source": "not installed: spdl (make peers)",
               "ffcv raw": "not installed: ffcv", "streaming source": "has no training augmentation"}  # fmt: skip
    skipped = tuple(Skipped(name=name, reason=reason) for name, reason in reasons.items())
    tuned = line("tuned source", [100.0] * 5, caveats=(SCALED.text,))
    found = run(tuned, tutorial(50), ours("source", 250), line("petseg source scaled", [250] * 5), skipped=skipped)
    without = "2.50x (250 and 100 by tuned, without ffcv, without spdl)"
    assert [verdict.measured for verdict in verdicts(found)] == [without, without, "5.00x (250 and 50)"]


@pytest.mark.parametrize("changes", [{"size": "64"}, {"batch_size": 16}, {"fit": "cover"}])
def test_goals_for_loaders_are_for_their_work(changes: dict[str, Any]) -> None:
    settings = {**STATED_FOR, **changes}
    assert judged(run(tutorial(100), ours("source", 1000), settings=settings)) == {}


def test_cold_lines_and_lines_on_a_gpu_reach_no_goal_of_warm_ones_on_the_cpu() -> None:
    for other in ({"cache": "cold"}, {"device": "cuda"}):
        assert judged(run(tutorial(100), ours("source", 1000, **other))) == {}
        assert judged(run(line("ffcv source", [100.0] * 5, cache="warm"), ours("source", 1000, **other))) == {}


def test_what_the_cores_would_allow_is_said() -> None:
    limits = (limit("copy", "", 2000.0), limit("decode", "source", 500.0))
    (verdict,) = verdicts(run(tutorial(100), ours("source", 250), limits=limits))
    assert "copy, decode alone would allow 4.00x" in verdict.limited_by
    (verdict,) = verdicts(run(tutorial(100), ours("source", 250)))
    assert "allow" not in verdict.limited_by


@pytest.mark.parametrize(("times", "text"), [(2.466, "2.47x"), (34.14, "34.1x"), (213.7, "214x"), (1234.0, "1,234x")])
def test_ratios_are_shown_as_people_read_them(times: float, text: str) -> None:
    assert ratio_text(times) == text


def packing(rate: float, cpu: float, *, workers: int, made: str = "") -> BuildLine:
    """A line that packs 100 images at a rate, with so many processor seconds."""
    return BuildLine(name=f"petseg raw, {workers} workers", workers=workers, bytes=1, limit=made,
                     repeats=repeats([rate] * 3, images=100, seconds=100 / rate, cpu_seconds=cpu))  # fmt: skip


@pytest.mark.parametrize(
    ("alone", "both", "share", "scaling"), [(100, 450, True, True), (300, 450, True, False), (100, 400, False, True)]
)
def test_packing_is_held_against_its_limit_and_against_one_process(
    alone: float, both: float, share: bool, scaling: bool
) -> None:
    found = run(kind="build", limits=(limit("make raw", "raw", 500.0),), environment=environment(cores=2),
                build=(packing(alone, 0.2, workers=1), packing(both, 0.2, workers=2, made="make raw")))  # fmt: skip
    assert judged(found) == {
        "`raw`, packed by all cores": share,
        "`raw`, packed by all cores vs. one": scaling,
    }
    first = verdicts(found)[0]
    assert first.asked == "0.9x decoding and resizing"
    assert first.limited_by.startswith("2.00 processor seconds for 1,000, the limit takes 4.00; cores ")


def test_what_keeps_two_processes_from_twice_the_speed_is_said() -> None:
    """Of 100 images in 1 s and, with two processes, in 0.625 s: a fifth more work, on cores that are 96 % busy."""
    limits = (limit("make raw", "raw", 500.0),)
    one, two = packing(100, 1.0, workers=1), packing(160, 1.2, workers=2, made="make raw")
    assert verdicts(run(kind="build", limits=limits, build=(one, two)))[1].limited_by == (
        "12.00 processor seconds for 1,000, 10.00 in one process; cores 96% busy, 100% with one"
    )
    unknown = run(kind="build", limits=limits, build=(one, packing(160, 0.0, workers=2, made="make raw")))
    assert verdicts(unknown)[1].limited_by == ""


def test_packing_without_a_limit_has_no_goal() -> None:
    assert judged(run(kind="build", build=(packing(100, 0.2, workers=2),))) == {}
