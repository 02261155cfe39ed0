"""Wrong calls of the public face: each error says what was meant, in the words of a caller from Python."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import petseg
from petseg import Loader, PetsegError, ShardSet
from shards.errors import command_line, option

PLACES: dict[str, Callable[[Any], object]] = {
    "loader": lambda place: Loader(place, batch_size=2),
    "open": ShardSet.open,
    "train": petseg.train,
    "run": lambda place: petseg.train("set", run=place),
    "config": lambda place: petseg.train("set", config=place),
    "init_from": lambda place: petseg.train("set", options={"init_from": place}),
    "build": lambda place: petseg.build_shards(place, "out"),
    "build out": lambda place: petseg.build_shards("source", place),
    "labels": lambda place: petseg.build_shards("source", "out", labels=place),
    "join": petseg.join_shards,
    "copy": lambda place: petseg.copy_shards(place, "out"),
    "copy out": lambda place: petseg.copy_shards("set", place),
    "evaluate": lambda place: petseg.evaluate(place, "set"),
    "predict": lambda place: petseg.predict(place, "image", "out"),
    "predict out": lambda place: petseg.predict("run", "image", place),
    "export": lambda place: petseg.export(place, "net.onnx"),
    "export file": lambda place: petseg.export("run", place),
    "load": petseg.load,
}


@pytest.mark.parametrize("name", PLACES)
def test_an_empty_path_is_no_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PetsegError, match="the path is empty; for the current folder"):
        PLACES[name]("")
    assert not list(tmp_path.iterdir())
    if name not in ("train", "run", "config", "labels", "init_from"):  # None has a meaning
        with pytest.raises(PetsegError, match="expected a path, or an address as text, not None"):
            PLACES[name](None)
    with pytest.raises(PetsegError, match="NUL"):
        PLACES[name]("a\0b")


def test_a_set_is_opened_and_not_made(synthetic_set: Path) -> None:
    for place in ("", "set", Path("set")):
        with pytest.raises(PetsegError, match=r"open a set with ShardSet.open\("):
            ShardSet(place)  # type: ignore[call-arg, arg-type]
    opened = ShardSet.open(synthetic_set)
    assert pickle.loads(pickle.dumps(opened)) == opened


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: Loader("set", batch_size=2, shufle=True), "Loader() has no argument shufle; did you mean shuffle?"),
        (lambda: petseg.train("set", lerning_rate=1), "options={...}; did you mean lr?"),
        (lambda: petseg.train("set", epochs=1), "options={...}; did you mean epochs?"),
        (lambda: petseg.train("set", rnu="a"), "did you mean run?"),
        (lambda: petseg.train("set", options={"learning_rate": 1}), "no such option: learning_rate; did you mean lr?"),
        (lambda: petseg.train("set", options={"batch-size": 1}), "batch-size; did you mean batch_size?"),
        (lambda: petseg.train("set", options={"zzz": 1}), "no such option: zzz"),
        (lambda: petseg.build_shards("a", "b", lables="c"), "did you mean labels?"),
        (lambda: petseg.evaluate("run", "set", splitt="val"), "did you mean split?"),
        (lambda: petseg.predict("run", "a", "b", over_write=True), "did you mean overwrite?"),
        (lambda: petseg.export("run", "a.onnx", input_sise=1), "did you mean input_size?"),
        (lambda: petseg.load("run", devise="cpu"), "did you mean device?"),
    ],
)
def test_a_wrong_name_names_the_nearest(call: Callable[[], object], text: str) -> None:
    with pytest.raises(PetsegError) as error:
        call()
    assert str(error.value).endswith(text)
    assert isinstance(error.value, TypeError) == ("has no argument" in str(error.value))


def test_a_loader_says_why_it_cannot_be_copied(synthetic_set: Path) -> None:
    with Loader(synthetic_set, batch_size=2, device="cpu") as loader:
        for use in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(PetsegError, match="create one in the process that uses it") as error:
                use(loader)
            assert isinstance(error.value, TypeError)


def test_messages_spell_options_as_the_caller_does(synthetic_pets: Path, synthetic_set: Path, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").touch()
    for call in (
        lambda: petseg.export(tmp_path, tmp_path / "net.onnx"),
        lambda: petseg.build_shards(synthetic_pets, synthetic_set, seed=99),
    ):
        with pytest.raises(PetsegError) as error:
            call()
        assert "--" not in str(error.value)
    assert (option("overwrite", True), option("fetch", "range"), option("cache_bytes")) == (
        "overwrite=True",
        "fetch='range'",
        "cache_bytes",
    )
    with command_line():
        assert (option("overwrite", True), option("fetch", "range"), option("cache_bytes")) == (
            "--overwrite",
            "--fetch range",
            "--cache-bytes",
        )
