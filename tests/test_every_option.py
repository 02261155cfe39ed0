"""Every option of every command is passed by a test.

The four commands of ``petseg`` name the test for each option in tests/petseg/test_options.py; for the subcommands of
petseg-shard and petseg-bench it is enough that a test file that calls the subcommand spells the option out.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import click
import pytest

TESTS = Path(__file__).resolve().parent
GROUPS = {"petseg-shard": ("shards.cli", "shards"), "petseg-bench": ("bench.cli", "bench")}


def options() -> list[tuple[str, str, str]]:
    found = []
    for program, (module, _) in GROUPS.items():
        group = importlib.import_module(module).main
        for name, command in group.commands.items():
            found += [(program, name, p.opts[0]) for p in command.params if isinstance(p, click.Option)]
    return found


def is_passed(program: str, subcommand: str, option: str) -> bool:
    """Whether a test file of the program's folder names both, as words of a command line."""
    spelt = re.compile(rf"(?<![\w-]){re.escape(option)}(?![\w-])")
    calls = re.compile(rf"\b{re.escape(subcommand)}\b")
    texts = (path.read_text() for path in (TESTS / GROUPS[program][1]).rglob("*.py"))
    return any(spelt.search(text) and calls.search(text) for text in texts)


@pytest.mark.parametrize(("program", "subcommand", "option"), options(), ids=" ".join)
def test_every_option_is_passed_by_a_test(program: str, subcommand: str, option: str) -> None:
    assert is_passed(program, subcommand, option)
