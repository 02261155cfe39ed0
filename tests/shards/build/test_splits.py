"""Splits and orders as pure functions."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.build.splits import (
    MIN_SAMPLES,
    MIN_SHARDS,
    apportion,
    official_split,
    random_split,
    shard_starts,
    shuffled,
    stratified,
)
from shards.errors import SourceError
from shards.format.builtin_labels import PETS
from shards.sources.layout_protocol import FileStamp, Pair, Source

STAMP = FileStamp(bytes=1, changed=1)
# What the first version chose for the names below; never to be changed.
VAL_OF_VERSION_1 = ["b0_4", "b0_8", "b1_9", "b2_2", "b3_11"]
ORDER_OF_VERSION_1 = ["b0_20", "b1_5", "b3_23", "b3_11", "b3_7"]
WEIGHTS = st.lists(st.integers(0, 20), min_size=1, max_size=8).filter(lambda weights: sum(weights) > 0)


def pairs(count: int) -> list[Pair]:
    return [
        Pair(name=f"b{i % 4}_{i}", image="", mask="", image_stamp=STAMP, mask_stamp=STAMP, group=f"b{i % 4}")
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


@given(st.lists(st.integers(1, 5000), max_size=1500), st.integers(1, 400_000))
def test_shards_share_the_bytes_of_a_split(sizes: list[int], shard_bytes: int) -> None:
    starts = shard_starts(sizes, shard_bytes=shard_bytes)
    if not sizes:
        assert starts == []
        return
    shards = [sizes[start:end] for start, end in zip(starts, [*starts[1:], len(sizes)], strict=True)]
    assert [size for shard in shards for size in shard] == sizes
    assert all(shards)
    wanted = min(max(-(-sum(sizes) // shard_bytes), min(MIN_SHARDS, len(sizes) // MIN_SAMPLES), 1), len(sizes))
    assert len(shards) <= wanted
    for shard in shards:
        assert sum(shard) <= sum(sizes) / wanted + max(shard)  # which is shard_bytes and one sample at most
    if max(sizes) <= sum(sizes) // wanted:
        assert len(shards) == wanted


@pytest.mark.parametrize(
    ("samples", "each", "shards"),
    [(31, 10, 1), (64, 10, 2), (511, 10, 15), (512, 10, 16), (10**5, 10, 16), (10**5, 51_200, 20), (10**5, 10**6, 391)],
)
def test_how_many_shards_a_split_has(samples: int, each: int, shards: int) -> None:
    """At 256 MB: 16, or one for 32 samples where there are few, until they would be larger."""
    assert len(shard_starts([each] * samples, shard_bytes=256_000_000)) == shards


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
    sizes = Counter(pair.group for pair in pairs(count))
    taken = Counter(name.split("_")[0] for name in chosen)
    for breed, size in sizes.items():
        assert abs(taken[breed] - round(fraction * count) * size / count) < 1 + 1e-6


def source(lists: dict[str, set[str]], *, layout: str = "folders", count: int = 12) -> Source:
    return Source(
        layout=layout,
        reason="",
        folder=Path("x"),
        pairs=tuple(sorted(pairs(count), key=lambda pair: pair.name)),
        lists={name: frozenset(names) for name, names in lists.items()},
        labels=PETS,
    )


def names_of(splits: dict[str, list[Pair]]) -> dict[str, set[str]]:
    return {split: {pair.name for pair in chosen} for split, chosen in splits.items()}


def test_official_split_follows_the_lists() -> None:
    names = [pair.name for pair in pairs(12)]
    given_lists = source({"trainval": set(names[:7]), "test": set(names[6:11])}, layout="pets")
    splits, findings = official_split(given_lists, val_fraction=0.5, seed=0)
    assert {pair.name for pair in splits["test"]} == set(names[6:11])  # the one in both lists is tested on only
    assert len(splits["val"]) == 3
    assert {pair.name for pair in splits["train"] + splits["val"]} == set(names[:6])
    found = [(finding.name, finding.reason) for finding in findings]
    assert found == [(names[6], "listed-twice"), (names[11], "not-listed")]


def test_val_of_the_pets_is_what_it_always_was() -> None:
    """Against the choice of the first version, written down: sets built then and now have the same splits."""
    names = [pair.name for pair in pairs(24)]
    given_lists = source({"trainval": set(names[:20]), "test": set(names[20:])}, layout="pets", count=24)
    splits, _ = official_split(given_lists, val_fraction=0.25, seed=7)
    assert [pair.name for pair in splits["val"]] == VAL_OF_VERSION_1
    assert shuffled(names, seed=7, purpose="order")[:5] == ORDER_OF_VERSION_1


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ({"train": "abcd", "val": "ef"}, {"train": "abcd", "val": "ef", "test": ""}),
        ({"train": "abcd", "val": "ef", "test": "gh"}, {"train": "abcd", "val": "ef", "test": "gh"}),
        ({"train": "abc", "val": "de", "trainval": "abcde"}, {"train": "abc", "val": "de", "test": ""}),
        ({"train": "abc", "trainval": "abcde"}, {"train": "abc", "val": "de", "test": ""}),
        ({"trainval": "abcde", "val": "de"}, {"train": "abc", "val": "de", "test": ""}),
        ({"trainval": "abcde", "val": "de", "test": "ea"}, {"train": "bc", "val": "d", "test": "ea"}),
        ({"train": "abc", "val": "cd"}, {"train": "ab", "val": "cd", "test": ""}),
        ({"test": "abcdefghijkl"}, {"train": "", "val": "", "test": "abcdefghijkl"}),
        ({"val": "abcdefghijkl"}, {"train": "", "val": "abcdefghijkl", "test": ""}),
    ],
)
def test_lists_that_say_everything(lists: dict[str, str], expected: dict[str, str]) -> None:
    names = dict(zip("abcdefghijkl", [pair.name for pair in pairs(12)], strict=True))
    given_lists = source({split: {names[letter] for letter in letters} for split, letters in lists.items()})
    splits, findings = official_split(given_lists, val_fraction=0.5, seed=0)
    assert names_of(splits) == {split: {names[letter] for letter in letters} for split, letters in expected.items()}
    listed = {letter for letters in lists.values() for letter in letters}
    assert {f.name for f in findings if f.reason == "not-listed"} == {names[x] for x in names if x not in listed}


def test_a_name_for_training_and_validation_is_validated_on() -> None:
    names = [pair.name for pair in pairs(12)]
    splits, findings = official_split(source({"train": set(names), "val": {names[3]}}), val_fraction=0.5, seed=0)
    assert [pair.name for pair in splits["val"]] == [names[3]]
    assert len(splits["train"]) == 11
    assert [(f.name, f.action, f.reason, f.split) for f in findings] == [(names[3], "warning", "listed-twice", "val")]


@pytest.mark.parametrize("kind", ["train", "trainval"])
def test_without_a_list_for_val_a_part_is_taken_from_every_group(kind: str) -> None:
    names = [pair.name for pair in pairs(12)]
    splits, findings = official_split(source({kind: set(names)}), val_fraction=0.34, seed=0)
    assert Counter(pair.group for pair in splits["val"]) == {"b0": 1, "b1": 1, "b2": 1, "b3": 1}
    assert names_of(splits)["train"] == set(names) - names_of(splits)["val"]
    assert (splits["test"], findings) == ([], [])


@pytest.mark.parametrize(
    ("lists", "layout", "message"),
    [
        ({"trainval": {"b0_0"}}, "pets", r"no test\.txt; use split='random'"),
        ({}, "folders", r"layout folders\) has no official lists of train, val and test; use split='random'"),
        ({"test": {"b0_0"}}, "voc", r"only a list of test, which leaves 11 images open"),
        ({"val": {"b0_0"}, "test": {"b1_1"}}, "voc", r"only a list of test and val, which leaves 10 images open"),
    ],
)
def test_lists_that_leave_it_open(lists: dict[str, set[str]], layout: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        official_split(source(lists, layout=layout), val_fraction=0.2, seed=0)
