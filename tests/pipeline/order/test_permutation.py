"""The order of epochs and the slices of batches, by property."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.order.hashing import derive, hash_counters, mix, uniform
from pipeline.order.permutation import BatchSlices, permutation

FROZEN_ORDER = [2, 3, 0, 7, 1, 9, 8, 4, 5, 6]
FROZEN_DIGEST = "83898b9ff168d4d2"

seeds = st.integers(min_value=-(2**70), max_value=2**70)
epochs = st.integers(min_value=0, max_value=10_000)


@given(seed=seeds, epoch=epochs, n=st.integers(1, 2000))
def test_every_sample_stands_once_in_an_epoch(seed: int, epoch: int, n: int) -> None:
    order = permutation(seed, epoch, n)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(n))


@given(seed=seeds, epoch=epochs, n=st.integers(50, 500))
def test_epochs_and_seeds_have_orders_of_their_own(seed: int, epoch: int, n: int) -> None:
    order = permutation(seed, epoch, n)
    assert not np.array_equal(order, permutation(seed, epoch + 1, n))
    assert not np.array_equal(order, permutation(seed + 1, epoch, n))
    assert np.array_equal(order, permutation(seed, epoch, n))


def test_the_order_is_frozen() -> None:
    """A saved state means the same batches in every later version: these values must never change."""
    assert permutation(0, 0, 10).tolist() == FROZEN_ORDER
    digest = hashlib.sha256(permutation(123, 45, 7349).astype("<i8").tobytes()).hexdigest()
    assert digest[:16] == FROZEN_DIGEST


@given(n=st.integers(1, 300), g=st.integers(1, 64), w=st.integers(1, 8), epoch=epochs)
def test_the_slices_of_ranks_tile_the_global_batches(n: int, g: int, w: int, epoch: int) -> None:
    if w > g:
        return
    order = permutation(1, epoch, n)
    whole = BatchSlices(samples=n, batch_size=g)
    plans = [BatchSlices(samples=n, batch_size=g, rank=rank, world_size=w) for rank in range(w)]
    seen = []
    for batch in range(whole.batches):
        indices, valid = whole.indices(order, batch)
        parts = [plan.indices(order, batch) for plan in plans]
        assert np.array_equal(np.concatenate([part[0] for part in parts]), indices)
        assert np.array_equal(np.concatenate([part[1] for part in parts]), valid)
        assert len(indices) == g
        assert valid.sum() == whole.valid_in_batch(batch)
        assert np.array_equal(valid, np.sort(valid)[::-1])  # padding stands at the end
        seen += indices[valid].tolist()
    assert seen == order.tolist()


@given(n=st.integers(1, 300), g=st.integers(1, 64), w=st.integers(1, 8))
def test_an_incomplete_last_batch_is_left_out_unless_it_is_the_only_one(n: int, g: int, w: int) -> None:
    order = permutation(1, 2, n)
    padded, dropped = (BatchSlices(samples=n, batch_size=g, drop_last=drop) for drop in (False, True))
    assert dropped.batches == max(1, padded.batches - (n % g > 0))
    seen = []
    for batch in range(dropped.batches):
        assert all(
            np.array_equal(*both) for both in zip(*(s.indices(order, batch) for s in (padded, dropped)), strict=True)
        )
        indices, valid = dropped.indices(order, batch)
        assert valid.all() or n < g
        seen += indices[valid].tolist()
        ranks = [BatchSlices(samples=n, batch_size=g, rank=rank, world_size=w) for rank in range(w)]
        assert [int(one.indices(order, batch)[1].sum()) for one in ranks] == [one.valid_on_rank(batch) for one in ranks]
    assert seen == order.tolist()[: dropped.epoch_samples]
    assert dropped.epoch_samples == (n if n < g else n - n % g)


@given(n=st.integers(1, 300), g=st.integers(1, 64), w=st.integers(1, 8))
def test_ranks_get_equal_slices_where_they_divide_the_batch(n: int, g: int, w: int) -> None:
    lengths = {len(BatchSlices(samples=n, batch_size=g * w, rank=rank, world_size=w).slice) for rank in range(w)}
    assert lengths == {g}


def test_mix_is_the_finaliser_of_splitmix64() -> None:
    """Against the published first outputs of SplitMix64 with seed 1234567 (Rosetta Code's reference values)."""
    state, golden = 1234567, 0x9E3779B97F4A7C15
    states = np.array([(state + golden * (i + 1)) & (2**64 - 1) for i in range(5)], dtype=np.uint64)
    assert mix(states).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@given(key=st.integers(0, 2**64 - 1), start=st.integers(0, 2**40))
def test_hashes_of_different_counters_differ(key: int, start: int) -> None:
    counters = np.arange(start, start + 1000)
    assert len(np.unique(hash_counters(key, counters))) == 1000


@given(parts=st.lists(st.integers(0, 3), min_size=2, max_size=5, unique=True))
def test_the_order_of_key_parts_matters(parts: list[int]) -> None:
    assert derive(*parts) != derive(*reversed(parts))


def test_uniform_numbers_are_uniform() -> None:
    values = uniform(derive(7), np.arange(100_000))
    assert values.min() >= 0
    assert values.max() < 1
    counts, _ = np.histogram(values, bins=50, range=(0, 1))
    chi_squared = ((counts - 2000) ** 2 / 2000).sum()
    assert chi_squared < 90  # 49 degrees of freedom: exceeded by chance once in 3,000


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_neighbours_are_spread_over_the_epoch(seed: int) -> None:
    """Samples that are packed side by side are no nearer in an epoch than any two samples are."""
    n = 2000
    position = np.argsort(permutation(seed, 0, n))
    gap = np.abs(np.diff(position)).mean()
    assert abs(gap - n / 3) < 0.1 * n / 3  # two uniform positions are n / 3 apart on average


@pytest.mark.parametrize("n", [1, 2, 3])
def test_tiny_sets_have_orders_too(n: int) -> None:
    orders = {tuple(permutation(0, epoch, n).tolist()) for epoch in range(50)}
    assert len(orders) == [1, 2, 6][n - 1]
