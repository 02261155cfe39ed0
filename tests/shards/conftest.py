"""Fixtures of the shards' tests; the makers behind them are in shard_sources.py beside this file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode does not
from shard_sources import SCENES, Maker, fill, fill_scenes, options

from shards.build.build_set import build


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    """An empty source; add pairs, then lists."""
    return Maker(tmp_path / "pets")


@pytest.fixture
def pets(maker: Maker) -> Path:
    """Thirty tiny pairs with lists."""
    return fill(maker, 30)


@pytest.fixture(scope="session")
def tiny_pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty tiny pairs with lists, shared: not to be changed."""
    return fill(Maker(tmp_path_factory.mktemp("tiny") / "pets"), 30)


@pytest.fixture(scope="session")
def tiny_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty tiny pairs of 21 classes in the layout ``folders``, shared: not to be changed."""
    return fill_scenes(tmp_path_factory.mktemp("tiny") / "scenes", 30)


@pytest.fixture(scope="session")
def tiny_scene_sets(tiny_scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A set of 21 classes of each storage with several shards a split, shared: not to be changed."""
    sets = {}
    for storage in ("source", "jpeg", "raw"):
        sets[storage] = tmp_path_factory.mktemp("scene_sets") / storage
        wide = {} if storage == "source" else {"size": (20, 36), "fit": "contain"}
        build(tiny_scenes, sets[storage], options(storage, **SCENES, **wide), workers=1)
    return sets


@pytest.fixture(scope="session")
def tiny_sets(tiny_pets: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A set of each storage with several shards a split, shared: not to be changed."""
    sets = {}
    for storage in ("source", "jpeg", "raw"):
        sets[storage] = tmp_path_factory.mktemp("sets") / storage
        build(tiny_pets, sets[storage], options(storage), workers=1)
    return sets
