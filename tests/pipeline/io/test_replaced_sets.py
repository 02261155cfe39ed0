"""A set that another one replaces while it is read, as ``build --overwrite`` does: an error, and never its samples."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from pipeline import Loader
from shards.build.build_set import build
from shards.build.options import options_from
from shards.errors import FormatError
from shards.format.dataset import ShardSet
from shards.sources.synthetic.generate import make_pets

AGAIN = "holds another set than when it was opened.* start again to use this one, or put the other one back"


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Sets of equal shape: as many samples, files of the same sizes, other images."""
    made = tmp_path / "set1", tmp_path / "set2"
    common: dict[str, Any] = {"quality": None, "split": "official", "fractions": None, "val_fraction": None}
    for seed, out in enumerate(made):
        make_pets(tmp_path / f"pets{seed}", count=24, seed=seed)
        build(tmp_path / f"pets{seed}", out, options_from(storage="raw", size=32, seed=0, **common), workers=1)
    return made


def exchange(one: Path, other: Path) -> None:
    one.rename(one.with_name("aside"))
    other.rename(one)


def test_a_set_that_took_the_place_of_an_opened_one_is_not_read(two: tuple[Path, Path]) -> None:
    opened = ShardSet.open(two[0])
    train, val = opened.split("train"), opened.split("val")
    assert len(train.shards)
    exchange(*two)
    with pytest.raises(FormatError, match=AGAIN):
        train.rows([0])
    with pytest.raises(FormatError, match=AGAIN):
        len(val.shards)


@pytest.mark.parametrize("on_error", ["stop", "replace"])
@pytest.mark.parametrize("batches", [0, 1])
def test_a_loader_names_no_damage_in_a_set_that_was_exchanged(
    two: tuple[Path, Path], batches: int, on_error: Any
) -> None:
    """The advice for damage, to verify the set or replace samples, would be of no use."""
    options: dict[str, Any] = {"batch_size": 2, "seed": 1, "device": "cpu", "threads": 1, "processes": 0}
    with Loader(two[0], on_error=on_error, max_damaged=24, **options) as loader:
        batches_of = iter(loader)
        for _ in range(batches):
            next(batches_of)
        exchange(*two)
        # A thread that reads ahead may have come between the two renames.
        with pytest.raises(FormatError, match=f"{AGAIN}|set1/.* cannot be read: No such file"):
            list(itertools.chain(batches_of, loader, loader))  # what was read in advance may be an epoch
        assert not loader.damaged
