"""The decision whether something changed: against SciPy, on synthetic runs, at its edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from bench.statistics import (
    compare,
    deviation,
    percentile,
    pooled_noise,
    rank_chance,
    spread,
    undisturbed,
)

RATES = st.lists(st.floats(1, 1e6), min_size=2, max_size=8)


@given(st.permutations(range(12)), st.integers(1, 11))
def test_rank_chance_is_scipys_exact_one(order: list[int], cut: int) -> None:
    a, b = [float(x) for x in order[:cut]], [float(x) for x in order[cut:]]
    expected = min(mannwhitneyu(a, b, alternative=side, method="exact").pvalue for side in ("less", "greater"))
    assert rank_chance(a, b) == pytest.approx(expected)


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
    for _ in range(2000):
        a, b = (runs(rng, 1000, noise=0.03, disturbed=False) for _ in range(2))
        alarms += compare(a, b, noise=0.03).changed
    assert alarms <= 10


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


def test_percentile_is_a_value_that_occurred() -> None:
    values = [float(x) for x in range(1, 101)]
    assert percentile(values, 0.95) == 95
    assert percentile(values, 0.5) == 50
    assert percentile([7.0], 0.95) == 7
    assert (spread(values).least, spread(values).median, spread(values).most) == (1, 50.5, 100)
