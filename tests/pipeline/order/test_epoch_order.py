"""The orders of epochs, by property: each sample once, the same for any way of asking, and few shards at a time."""

from __future__ import annotations

import hashlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.order import epoch_order
from pipeline.order.epoch_order import BlockOrder, EpochOrder, GlobalOrder, Shuffling, StoredOrder
from pipeline.order.feistel import MOST, FeistelPermutation
from pipeline.order.hashing import derive
from pipeline.order.permutation import BatchSlices, permutation

FROZEN_FEISTEL = [7, 3, 5, 0, 4, 6, 8, 1, 9, 2]
FROZEN_DIGESTS = ["0a5190d04e2fd9a2", "355c3c7a2a81a92e"]

seeds = st.integers(min_value=-(2**70), max_value=2**70)
epochs = st.integers(min_value=0, max_value=10_000)
shard_sizes = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def starts_of(sizes: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def block(sizes: list[int], window: int, seed: int = 0, epoch: int = 0) -> BlockOrder:
    return BlockOrder(seed, epoch, starts=starts_of(sizes), window=window)


def whole(order: EpochOrder) -> np.ndarray:
    return np.asarray(order[np.arange(len(order))])


@given(key=st.integers(0, 2**64 - 1), n=st.integers(1, 3000))
def test_a_feistel_network_permutes(key: int, n: int) -> None:
    permuted = FeistelPermutation(key, n)
    numbers = permuted[np.arange(n)]
    assert numbers.dtype == np.int64
    assert np.array_equal(np.sort(numbers), np.arange(n))
    assert [int(permuted[position]) for position in (0, n // 2, n - 1)] == numbers[[0, n // 2, n - 1]].tolist()


@pytest.mark.parametrize("n", [2**31 + 7, 10**12 + 39, 2**53, MOST])
def test_a_feistel_network_permutes_what_no_memory_holds(n: int) -> None:
    """Distinct numbers below n for distinct positions, the last ones too; by Python's own integers once more."""
    permuted = FeistelPermutation(derive(n), n)
    positions = np.unique(np.concatenate([np.arange(500), n - 1 - np.arange(500), np.arange(500) * (n // 500)]))
    numbers = permuted[positions]
    assert len(np.unique(numbers)) == len(positions)
    assert 0 <= numbers.min() <= numbers.max() < n
    if n < 2**50:
        assert numbers[:20].tolist() == [by_hand(derive(n), n, int(position)) for position in positions[:20]]


def by_hand(key: int, n: int, position: int) -> int:
    """The same permutation, as the module's text describes it, in integers without bounds."""
    mask, golden = 2**64 - 1, 0x9E3779B97F4A7C15

    def mixed(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        return z ^ (z >> 31)

    a = next(each for each in range(int(n**0.5) - 1, n + 2) if each * each >= n)
    b = -(-n // a)
    while True:
        left, right = divmod(position, b)
        for number in range(8):
            round_key = derive(key, number)
            digit, base = (right, a) if number % 2 == 0 else (left, b)
            added = (mixed((round_key + (digit + 1) * golden) & mask) >> 32) * base >> 32
            if number % 2 == 0:
                left = (left + added) % a
            else:
                right = (right + added) % b
        position = left * b + right
        if position < n:
            return position


def test_the_orders_are_frozen() -> None:
    """A saved state means the same batches in every later version: these values must never change."""
    assert FeistelPermutation(derive(0), 10)[np.arange(10)].tolist() == FROZEN_FEISTEL
    big = FeistelPermutation(derive(1, 2), 10**7)[np.arange(0, 10**7, 4999)]
    blocks = whole(block([5, 3, 8, 1, 9, 4], 2, seed=3, epoch=4))
    assert [digest(big), digest(blocks)] == FROZEN_DIGESTS
    assert np.array_equal(whole(GlobalOrder(5, 6, 1000)), permutation(5, 6, 1000))


def digest(numbers: np.ndarray) -> str:
    return hashlib.sha256(numbers.astype("<i8").tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("n", [1009, 1 << 15])
def test_a_feistel_network_shuffles_as_well_as_sorting_hashes(n: int) -> None:
    """Over many keys: where each sixteenth of the samples goes, how neighbours differ, and how many stay neighbours."""
    count = 500_000 // n
    cells, steps, adjacent = np.zeros((16, 16)), np.zeros(16), 0
    places = np.arange(n) * 16 // n
    for number in range(count):
        numbers = FeistelPermutation(derive(number, n), n)[np.arange(n)]
        cells += np.bincount(places * 16 + numbers * 16 // n, minlength=256).reshape(16, 16)
        differences = np.diff(numbers)
        steps += np.bincount((differences % n) * 16 // n, minlength=16)
        adjacent += int((np.abs(differences) == 1).sum())
    ideal = np.outer(np.bincount(places), np.bincount(places)) * count / n
    assert ((cells - ideal) ** 2 / ideal).sum() < 320  # 225 degrees of freedom: exceeded once in 30,000
    shares = np.bincount(np.arange(1, n) * 16 // n, minlength=16) / (n - 1) * steps.sum()
    assert ((steps - shares) ** 2 / shares).sum() < 50  # 15 degrees of freedom, likewise
    assert abs(adjacent / count - 2) < 5 * np.sqrt(2 / count)  # as many as a uniform permutation has


@given(sizes=shard_sizes, window=st.integers(1, 40), seed=seeds, epoch=epochs)
def test_a_block_order_has_every_sample_once_and_few_shards_at_a_time(
    sizes: list[int], window: int, seed: int, epoch: int
) -> None:
    order = block(sizes, window, seed, epoch)
    indices = whole(order)
    assert np.array_equal(np.sort(indices), np.arange(sum(sizes)))
    shards = np.searchsorted(starts_of(sizes), indices, side="right") - 1
    position = 0
    while position < len(order):
        found = list(dict.fromkeys(shards[position:].tolist()))[:window]
        samples = sum(sizes[shard] for shard in found)
        assert set(shards[position : position + samples].tolist()) == set(found)  # all of them, before any other
        position += samples


@given(sizes=shard_sizes, window=st.integers(1, 40), positions=st.lists(st.integers(0, 2**30), max_size=50))
def test_an_order_does_not_depend_on_what_was_asked_before(sizes: list[int], window: int, positions: list[int]) -> None:
    wanted = np.array(positions, dtype=np.int64) % sum(sizes)
    for make in (lambda: block(sizes, window), lambda: GlobalOrder(1, 2, sum(sizes)), lambda: StoredOrder(sum(sizes))):
        order: EpochOrder = make()
        expected = whole(make())[wanted]
        assert np.array_equal(order[wanted], expected)
        assert [int(order[int(position)]) for position in wanted] == expected.tolist()


@pytest.mark.parametrize("most", [1 << 20, 0], ids=["sorted", "feistel"])
def test_epochs_and_seeds_have_block_orders_of_their_own(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(epoch_order, "MOST_SORTED", most)
    sizes = [20] * 12
    orders = [whole(block(sizes, 3, seed, epoch)) for seed in range(4) for epoch in range(4)]
    assert len({tuple(order.tolist()) for order in orders}) == 16
    assert len({tuple(order[:60].tolist()) for order in orders}) == 16
    firsts = {tuple(np.unique(whole(block(sizes, 3, 0, epoch))[:60] // 20).tolist()) for epoch in range(50)}
    assert len(firsts) > 35  # windows are of other shards in each epoch: 45 of the 220 triples are expected
    again = whole(block(sizes, 3, 2, 1))
    assert np.array_equal(again, orders[9])


def test_windows_of_one_epoch_are_permuted_differently() -> None:
    order = block([50] * 6, 1)
    windows = [np.asarray(order[np.arange(start, start + 50)]) % 50 for start in range(0, 300, 50)]
    assert len({tuple(each.tolist()) for each in windows}) == 6


@given(sizes=shard_sizes, window=st.integers(1, 8), g=st.integers(1, 16), w=st.integers(1, 8))
def test_ranks_share_the_batches_of_a_block_order(sizes: list[int], window: int, g: int, w: int) -> None:
    order = block(sizes, window, 4, 5)
    slices = [BatchSlices(samples=sum(sizes), batch_size=g, rank=rank, world_size=w) for rank in range(w)]
    one = BatchSlices(samples=sum(sizes), batch_size=g)
    for batch in range(one.batches):
        parts = np.concatenate([each.indices(order, batch)[0] for each in slices])
        assert np.array_equal(parts, one.indices(order, batch)[0])


@pytest.mark.parametrize("kind", ["global", "block", "none"])
def test_a_hundred_million_samples_take_no_memory(kind: str) -> None:
    """Shards of 2,560 samples, in windows of 16; a sorted order alone would take 1,600 MB for a moment."""
    starts = np.arange(0, 10**8 + 1, 2500)
    shuffling = Shuffling(kind=kind, window=16)  # type: ignore[arg-type]
    tracemalloc.start()
    try:
        order = shuffling.order(7, 3, starts=starts)
        for start in range(0, 10**8, 12_345_678):
            found = order[np.arange(start, start + 1024)]
            assert len(np.unique(found)) == 1024
            assert 0 <= found.min() <= found.max() < 10**8
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_what_a_saved_position_is_valid_for() -> None:
    """True and False are those of earlier states, whose orders are still the same up to 2^20 samples."""
    many = 1 << 20
    assert Shuffling(kind="global", window=4).bound_value(many) is True
    assert Shuffling(kind="none", window=4).bound_value(many + 1) is False
    named = {Shuffling(kind="global", window=4).bound_value(many + 1)}
    named |= {Shuffling(kind="block", window=window).bound_value(5) for window in (4, 5)}
    assert len(named | {True, False}) == 5
