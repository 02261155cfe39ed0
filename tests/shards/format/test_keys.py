"""Keys: safe, unique, independent of the order of names, and found again from the name."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.format.keys import assign_keys, candidate_keys, is_safe, shown
from shards.format.layout import MAX_KEY_LENGTH

NAMES = st.lists(st.text(min_size=1, max_size=40), unique=True, max_size=20)
AWKWARD = ["a b", "a.b", "Käse", "猫", "-rf", "../../etc/passwd", "x" * 300, "a\tb", "..", " ", "x-y", "a/b", "\udcff"]


@settings(max_examples=40)
@given(NAMES)
def test_every_name_has_a_safe_and_unique_key(names: list[str]) -> None:
    keys = assign_keys(names)
    assert set(keys) == set(names)
    assert len(set(keys.values())) == len(names)
    for name, key in keys.items():
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*", key)
        assert len(key) <= MAX_KEY_LENGTH
        assert key in candidate_keys(name)


@settings(max_examples=25)
@given(NAMES, st.randoms())
def test_order_of_names_does_not_matter(names: list[str], random: object) -> None:
    other = list(names)
    random.shuffle(other)  # type: ignore[attr-defined]
    assert assign_keys(names) == assign_keys(other)


@settings(max_examples=30)
@given(st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}", fullmatch=True))
def test_a_safe_name_is_its_own_key(name: str) -> None:
    assert candidate_keys(name) == [name]


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_names(name: str) -> None:
    (key,) = assign_keys([name]).values()
    assert is_safe(key)
    shown(name).encode("utf-8")


def test_a_name_that_looks_like_anothers_key_keeps_it() -> None:
    squatter = candidate_keys("a b")[0]
    keys = assign_keys(["a b", squatter])
    assert keys[squatter] == squatter
    assert keys["a b"] == candidate_keys("a b")[1]


def test_letters_without_an_ascii_form_are_left_out_and_keys_stay_apart() -> None:
    names = ["Stra\u00dfe", "Strae", "Stra\u00f8e", "Stra\u0142e", "Strasse", "Stra e", "\u00dfStra\u00f0e"]
    keys = assign_keys(names)
    assert keys["Stra\u00dfe"] == "Strae-58a3778c18"  # as docs/formats.md says
    assert (keys["Strae"], keys["Strasse"]) == ("Strae", "Strasse")
    assert {key.partition("-")[0] for key in keys.values()} == {"Strae", "Strasse", "Stra_e"}
    assert len(set(keys.values())) == len(names)


def test_the_same_name_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="no key"):
        assign_keys(["a", "a"])
