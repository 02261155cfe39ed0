"""Options of version 1 under their old names."""

import click
import pytest

from petseg.cli import evaluate, predict


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
