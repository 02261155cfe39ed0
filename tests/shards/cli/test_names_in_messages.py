"""Names with escape sequences or line breaks reach no terminal as they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from forging import sealed
from hypothesis import given
from hypothesis import strategies as st
from shard_sources import Maker

from shards.cli import main
from shards.errors import printable
from shards.format.label_files import find_labels

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


def test_names_between_colons_are_no_pictures(tmp_path: Path) -> None:
    maker = Maker(tmp_path / "pets")
    for number in range(4):
        maker.add(f"a_{number}")
    output("build", maker.folder, tmp_path / "a:cat:b", "--split", "random", "--workers", "1")
    assert "a:cat:b: 4 samples" in output("info", tmp_path / "a:cat:b")


@pytest.mark.parametrize("command", ["build", "labels"])
def test_names_of_sources(command: str, tmp_path: Path) -> None:
    more = [tmp_path / "set"] if command == "build" else []
    assert_harmless(output(command, tmp_path / NASTY, *more))
    shutil.rmtree(tmp_path / NASTY, ignore_errors=True)
    (tmp_path / NASTY).mkdir()
    assert_harmless(output(command, tmp_path / NASTY, *more))


def test_texts_of_a_manifest(tmp_path: Path) -> None:
    """Any text may be in one, and reasons that only a later version knows; its checksum is right."""
    maker = Maker(tmp_path / "pets")
    for number in range(4):
        maker.add(f"a_{number}")
    out, forged = tmp_path / "set", r"a\u001b[2J\nError: forged\u0007"
    build = ("build", maker.folder, out, "--split", "random", "--workers", "1")
    output(*build)
    text = (out / "manifest.json").read_text().replace('"layout": "pets"', f'"layout": "{forged}"')
    document = json.loads(text)
    document["audit"]["reasons"] = {NASTY: 1, "of-version-9": 2}
    document["splits"]["train"]["attributes"] = {NASTY: {NASTY: 1}}
    document["versions"] = {NASTY: NASTY}
    (out / "manifest.json").write_bytes(sealed(document))
    for command in (("info", out), ("join", out), build, (*build, "--strict"), ("join", out, "--strict")):
        assert_harmless(output(*command))
    assert "of another version" in output("info", out)
    assert "\x1b" not in output("verify", out)


@pytest.mark.parametrize("command", ["build", "labels"])
def test_names_of_folders_and_of_files_that_are_not_read(command: str, tmp_path: Path) -> None:
    maker = Maker(tmp_path / NASTY)
    for number in range(4):
        maker.add(f"a_{number}")
    (maker.folder / "images" / f"{NASTY}.heic").write_bytes(b"x")
    more = (tmp_path / NASTY / ".." / f"{NASTY}-set", "--split", "random", "--workers", "1")
    if command == "labels":
        more = ("-o", tmp_path / "labels.toml")  # type: ignore[assignment]
    assert_harmless(output(command, maker.folder, *more))
    if command == "labels":  # the name is in a comment of the file
        find_labels(str(tmp_path / "labels.toml"))


@given(st.text())
def test_printable_is_printable_and_keeps_what_is(text: str) -> None:
    assert printable(text).isprintable()
    assert "\n" not in printable(text)
    if text.isprintable():
        assert printable(text) == text


def test_bytes_that_are_no_text() -> None:
    assert printable(b"caf\xe9\x00".decode("utf-8", "surrogateescape")) == r"caf\xe9\x00"
    assert printable("a\ud800 ä") == r"a\ud800 ä"  # which stands for no byte; JSON may hold it
