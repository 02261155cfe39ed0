"""Every option of every command is passed by a test, or stands below with the reason why none passes it.

The four commands of ``petseg`` name the test for each option in tests/petseg/test_options.py; for the subcommands of
petseg-shard and petseg-bench it is enough that a test file that calls the subcommand spells the option out. A new
option fails here until either is true.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import click
import pytest

TESTS = Path(__file__).resolve().parent
GROUPS = {"petseg-shard": ("shards.cli", "shards"), "petseg-bench": ("bench.cli", "bench")}

_SLOW = "lengthens or shortens a measurement of minutes; no test runs one"
_SEED = "decides in which order turns are taken, which no result depends on"
UNTESTED: dict[tuple[str, str, str], str] = {
    ("petseg-bench", "loader", "--mask"): "chooses lines of the table; both kinds are the default, which is tested",
    ("petseg-bench", "loader", "--seed"): _SEED,
    ("petseg-bench", "loader", "--starts"): _SLOW,
    ("petseg-bench", "loader", "--soak"): _SLOW,
    ("petseg-bench", "loader", "--work"): "only the place of temporary folders; which disk it is, no test can choose",
    ("petseg-bench", "train", "--precisions"): "handed to petseg-train as --precision, where it is tested",
    ("petseg-bench", "train", "--engine"): "handed to the loader, where every engine is tested",
    ("petseg-bench", "train", "--seed"): _SEED,
    ("petseg-bench", "build", "--work"): "only the place of temporary folders; which disk it is, no test can choose",
    ("petseg-bench", "compare", "--fail"): "no test passes it yet",
}


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
    texts = (path.read_text() for path in (TESTS / GROUPS[program][1]).glob("*.py"))
    return any(spelt.search(text) and calls.search(text) for text in texts)


@pytest.mark.parametrize(("program", "subcommand", "option"), options(), ids=" ".join)
def test_every_option_is_passed_by_a_test_or_listed(program: str, subcommand: str, option: str) -> None:
    passed = is_passed(program, subcommand, option)
    assert passed or UNTESTED.get((program, subcommand, option)), "test it, or list it with the reason"
