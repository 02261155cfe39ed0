"""The decision whether something changed: on synthetic runs, at its edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.results.comparison import can_report, compare, deviation, pooled_noise, undisturbed

RATES = st.lists(st.floats(1, 1e6), min_size=2, max_size=8)


@given(st.permutations(range(12)), st.integers(1, 11))
def test_chance_is_the_exact_tests_over_the_undisturbed(order: list[int], cut: int) -> None:
    from scipy.stats import mannwhitneyu

    a, b = [x + 1.0 for x in order[:cut]], [x + 1.0 for x in order[cut:]]
    kept = undisturbed(a), undisturbed(b)
    expected = min(mannwhitneyu(*kept, alternative=side, method="exact").pvalue for side in ("less", "greater"))
    assert compare(a, b).chance == pytest.approx(expected)


@pytest.mark.parametrize(
    ("n", "m", "possible"),
    [(1, 1, False), (3, 3, False), (3, 5, False), (3, 8, True), (4, 4, True), (5, 5, True), (2, 99, True)],
)
def test_too_few_values_can_never_reach_the_level(n: int, m: int, possible: bool) -> None:
    assert can_report(n, m) == possible
    most_uneven = compare([1.0 + i / 1000 for i in range(n)], [100.0 + i / 1000 for i in range(m)])
    assert most_uneven.changed == possible


@given(RATES, RATES)
def test_comparing_is_symmetric(a: list[float], b: list[float]) -> None:
    forward, backward = compare(a, b), compare(b, a)
    assert forward.ratio * backward.ratio == pytest.approx(1)
    assert forward.changed == backward.changed
    assert forward.margin == pytest.approx(backward.margin)


@given(RATES)
def test_a_run_does_not_differ_from_itself(a: list[float]) -> None:
    assert not compare(a, a).changed


def runs(rng: np.random.Generator, middle: float, *, noise: float, disturbed: bool) -> list[float]:
    rates = middle * np.exp(rng.normal(0, 0.01) + rng.normal(0, noise, 5))
    if disturbed:
        rates[rng.integers(5)] *= 0.6
    return [float(rate) for rate in rates]


@pytest.mark.parametrize("noise", [0.005, 0.02, 0.04])
@pytest.mark.parametrize("disturbed", [False, True])
def test_finds_a_fifth_in_ten_of_ten_and_nothing_where_nothing_is(noise: float, disturbed: bool) -> None:
    rng = np.random.default_rng(int(noise * 1000) + disturbed)
    pool = pooled_noise([runs(rng, 1000, noise=noise, disturbed=False) for _ in range(12)])
    for _ in range(10):
        a, b, slow = (runs(rng, middle, noise=noise, disturbed=disturbed) for middle in (1000, 1000, 800))
        assert not compare(a, b, noise=pool).changed
        found = compare(a, slow, noise=pool)
        assert found.changed
        assert found.ratio < 1


def test_false_alarms_are_rare_over_many_tries() -> None:
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(500):
        a, b = (runs(rng, 1000, noise=0.03, disturbed=False) for _ in range(2))
        alarms += compare(a, b, noise=0.03).changed
    assert alarms <= 2


def test_the_machines_drift_widens_the_margin() -> None:
    a, b = [100.0, 101, 99, 100, 102], [88.0, 89, 87, 88, 90]
    assert compare(a, b).changed
    assert not compare(a, b, drift=math.log(0.9)).changed


def test_one_disturbed_repeat_is_left_out() -> None:
    assert undisturbed([5.0, 1.0, 6.0, 7.0, 8.0]) == [5.0, 6.0, 7.0, 8.0]
    assert undisturbed([5.0, 1.0]) == [1.0, 5.0]


def test_deviation_is_that_of_a_normal_sample() -> None:
    values = np.random.default_rng(0).normal(3, 2, 400).tolist()
    assert deviation(values) == pytest.approx(2, rel=0.1)
    assert deviation([4.0]) == 0
