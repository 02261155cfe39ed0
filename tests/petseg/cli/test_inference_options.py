"""The options of petseg-eval, petseg-predict and petseg-export: old spellings work, and a test passes each option."""

import re
from pathlib import Path

import click
import pytest

from petseg.cli import evaluate, export, predict

TESTS = Path(__file__).resolve().parents[1]
COMMANDS = (evaluate, predict, export)
OPTIONS = [(command, option) for command in COMMANDS for option in command.params if isinstance(option, click.Option)]


@pytest.mark.parametrize(
    ("command", "arguments", "old", "new"),
    [
        (evaluate, ["run", "--shards", "set"], "--own-size", "--original-resolution"),
        (evaluate, ["run", "--shards", "set"], "--mirror", "--flip-tta"),
        (predict, ["run", "cat.jpg", "-o", "out"], "--mirror", "--flip-tta"),
    ],
)
def test_old_spellings_work(command: click.Command, arguments: list[str], old: str, new: str) -> None:
    def parse(*option: str) -> dict[str, object]:
        return command.make_context("petseg", [*arguments, *option]).params

    assert parse(old) == parse(new) != parse()


@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=lambda value: value.name)
def test_a_test_passes_every_option(command: click.Command, option: click.Option) -> None:
    texts = [path.read_text() for path in TESTS.rglob("test_*.py") if path != Path(__file__).resolve()]
    calls = re.compile(rf"call\(\s*{command.name}\b")
    spellings = [f'"{spelling}"' for spelling in (*option.opts, *option.secondary_opts)]
    assert any(spelling in text for text in texts if calls.search(text) for spelling in spellings)
