"""Names with escape sequences or line breaks reach no terminal as they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from shard_sources import Maker

from shards.cli import main
from shards.errors import printable

NASTY = "a\x1b[2J\nError: forged\x07"


def output(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.output


def assert_harmless(text: str) -> None:
    assert r"\x1b[2J" in text
    assert "\x1b" not in text
    assert "\x07" not in text
    assert not [line for line in text.splitlines() if line.startswith("Error: forged")]


@pytest.fixture
def nasty_pets(tmp_path: Path) -> Path:
    maker = Maker(tmp_path / "pets")
    for number in range(4):
        maker.add(f"a_{number}")
    maker.write(f"{NASTY}_1", b"broken", b"broken")
    return maker.folder


def test_names_of_images_that_are_rejected(nasty_pets: Path, tmp_path: Path) -> None:
    command = ("build", nasty_pets, tmp_path / "set", "--split", "random", "--workers", "1")
    assert_harmless(output(*command, "--strict"))
    output(*command)
    (line,) = (tmp_path / "set" / "audit.jsonl").read_text().splitlines()
    assert json.loads(line)["name"] == f"{NASTY}_1"
    assert line.isprintable()


@pytest.mark.parametrize("command", ["info", "verify", "preview"])
def test_names_of_sets(command: str, tmp_path: Path) -> None:
    more = [tmp_path / "page.html"] if command == "preview" else []
    assert_harmless(output(command, tmp_path / NASTY, *more))


@pytest.mark.parametrize("command", ["build", "labels"])
def test_names_of_sources(command: str, tmp_path: Path) -> None:
    more = [tmp_path / "set"] if command == "build" else []
    assert_harmless(output(command, tmp_path / NASTY, *more))
    shutil.rmtree(tmp_path / NASTY, ignore_errors=True)
    (tmp_path / NASTY).mkdir()
    assert_harmless(output(command, tmp_path / NASTY, *more))


@given(st.text())
def test_printable_is_printable_and_keeps_what_is(text: str) -> None:
    assert printable(text).isprintable()
    assert "\n" not in printable(text)
    if text.isprintable():
        assert printable(text) == text


def test_bytes_that_are_no_text() -> None:
    assert printable(b"caf\xe9\x00".decode("utf-8", "surrogateescape")) == r"caf\xe9\x00"
    assert printable("a\ud800 ä") == r"a\ud800 ä"  # which stands for no byte; JSON may hold it
