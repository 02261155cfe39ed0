"""Splits and orders as pure functions."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.build.splits import apportion, official_split, random_split, shuffled, stratified
from shards.errors import SourceError
from shards.sources.pets import FileStamp, Pair, PetsSource

STAMP = FileStamp(bytes=1, changed=1)
WEIGHTS = st.lists(st.integers(0, 20), min_size=1, max_size=8).filter(lambda weights: sum(weights) > 0)


def pairs(count: int) -> list[Pair]:
    return [
        Pair(name=f"b{i % 4}_{i}", image="", mask="", image_stamp=STAMP, mask_stamp=STAMP, breed=f"b{i % 4}")
        for i in range(count)
    ]


@given(st.integers(0, 5000), WEIGHTS)
def test_apportion_gives_everything_and_is_near(total: int, weights: list[int]) -> None:
    fractions = [weight / sum(weights) for weight in weights]
    counts = apportion(total, fractions)
    assert sum(counts) == total
    for count, fraction in zip(counts, fractions, strict=True):
        assert abs(count - total * fraction) < 1 + 1e-6
        assert count == 0 or fraction > 0


@given(st.integers(0, 60), st.integers(0, 5))
def test_random_split_is_a_partition(count: int, seed: int) -> None:
    splits = random_split(pairs(count), fractions=(0.7, 0.2, 0.1), seed=seed)
    names = [pair.name for split in splits.values() for pair in split]
    assert sorted(names) == sorted(pair.name for pair in pairs(count))


def test_everything_into_one_split() -> None:
    splits = random_split(pairs(9), fractions=(0.0, 0.0, 1.0), seed=0)
    assert {name: len(chosen) for name, chosen in splits.items()} == {"train": 0, "val": 0, "test": 9}


def test_seeds_differ_and_repeat() -> None:
    names = [pair.name for pair in pairs(50)]
    assert shuffled(names, seed=1, purpose="order") == shuffled(names[::-1], seed=1, purpose="order")
    assert shuffled(names, seed=1, purpose="order") != shuffled(names, seed=2, purpose="order")
    assert shuffled(names, seed=1, purpose="order") != shuffled(names, seed=1, purpose="val")


@given(st.integers(4, 80), st.floats(0, 1))
def test_val_is_stratified(count: int, fraction: float) -> None:
    chosen = stratified(pairs(count), fraction=fraction, seed=0)
    assert len(chosen) == round(fraction * count)
    sizes = Counter(pair.breed for pair in pairs(count))
    taken = Counter(name.split("_")[0] for name in chosen)
    for breed, size in sizes.items():
        assert abs(taken[breed] - round(fraction * count) * size / count) < 1 + 1e-6


def source(lists: dict[str, set[str]]) -> PetsSource:
    frozen = {name: frozenset(names) for name, names in lists.items()}
    return PetsSource(folder=Path("x"), pairs=tuple(pairs(12)), lists=frozen, findings=(), ignored=0)


def test_official_split_follows_the_lists() -> None:
    names = [pair.name for pair in pairs(12)]
    given_lists = source({"trainval": set(names[:7]), "test": set(names[6:11])})
    splits, findings = official_split(given_lists, val_fraction=0.5, seed=0)
    assert {pair.name for pair in splits["test"]} == set(names[6:11])  # the one in both lists is tested on only
    assert len(splits["val"]) == 3
    assert {pair.name for pair in splits["train"] + splits["val"]} == set(names[:6])
    found = [(finding.name, finding.reason) for finding in findings]
    assert found == [(names[6], "listed-twice"), (names[11], "not-listed")]


def test_official_split_needs_the_lists() -> None:
    with pytest.raises(SourceError, match=r"test\.txt; use --split random"):
        official_split(source({"trainval": {"b0_0"}}), val_fraction=0.2, seed=0)
