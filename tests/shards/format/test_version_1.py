"""A set of format 1: refused by everything that reads sets, with the command that builds it anew, and that works."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import Loader
from shards.cli import main
from shards.errors import FormatError
from shards.format.dataset import ShardSet
from shards.verify.check_set import verify

MANIFEST = Path(__file__).with_name("version-1-manifest.json")  # as version 0.1.0 wrote it, of three synthetic pets


@pytest.fixture
def old_set(tmp_path: Path) -> Path:
    """As many files as a set of format 1 has; their content is never looked at."""
    folder = tmp_path / "old set"
    folder.mkdir()
    (folder / "manifest.json").write_bytes(MANIFEST.read_bytes())
    for name in ("train-000000.tar", "train-000000.idx", "train.samples.npy", "quarantine.jsonl"):
        (folder / name).write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    "use", [ShardSet.open, lambda folder: Loader(folder, split="train", batch_size=1)], ids=["open", "loader"]
)
def test_it_is_refused_with_the_command_that_builds_it_anew(old_set: Path, use: Callable[[Path], object]) -> None:
    with pytest.raises(FormatError, match=r"is of format version 1, this program reads version 2; build the set again"):
        use(old_set)


def test_verify_reports_it(old_set: Path) -> None:
    report = verify(old_set, workers=1)
    assert not report.ok
    assert "format version 1" in report.text()


@pytest.mark.parametrize("command", ["info", "preview"])
def test_the_commands_say_it_in_printable(old_set: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [command, str(old_set), *([str(old_set.parent / "sheet.png")] if command == "preview" else [])]
    with pytest.raises(SystemExit) as caught:
        main.main(arguments, prog_name="petseg-shard")
    assert caught.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Error: ")


def test_the_command_in_the_message_works(old_set: Path, tiny_pets: Path) -> None:
    with pytest.raises(FormatError) as caught:
        ShardSet.open(old_set)
    found = re.search(r"petseg-shard (build SOURCE .* --overwrite)$", str(caught.value))
    assert found is not None
    arguments = shlex.split(found[1].replace("SOURCE", shlex.quote(str(tiny_pets))))
    with pytest.raises(SystemExit) as ended:
        main.main([*arguments, "--workers", "1"], prog_name="petseg-shard")
    assert ended.value.code == 0
    assert ShardSet.open(old_set).manifest.samples == 30
    assert not (old_set / "quarantine.jsonl").exists()
