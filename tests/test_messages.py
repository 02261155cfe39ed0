"""Messages spell options as the caller has to write them: with dashes for a command, as an argument from Python."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from shards.errors import command_line, option, spelled

ROOT = Path(__file__).resolve().parents[1]
OPTION = re.compile(r"(?<![\w-])--[a-z]")
SPELL = {"spelled", "click.option", "click.Option", "click.argument", "click.Choice", "Meta"}
# What these hold is typed into a shell, by whoever reads it.
COMMANDS = {"petseg/runs/command_line.py", "petseg/runs/config_file.py", "shards/sources/survey/labels_template.py"}


@pytest.mark.parametrize(
    ("text", "by_command", "from_python"),
    [
        ("--shuffle-window is for --shuffle=block", "--shuffle-window is for --shuffle block",
         "shuffle_window is for shuffle='block'"),
        ("give --no-tensorboard", "give --no-tensorboard", "give tensorboard=False"),
        ("with --clip-norm=1, or", "with --clip-norm 1, or", "with clip_norm=1, or"),
        ("give --tasks=N: a-b --", "give --tasks N: a-b --", "give tasks=N: a-b --"),
        ("nothing", "nothing", "nothing"),
    ],
)  # fmt: skip
def test_a_message_has_the_words_of_its_caller(text: str, by_command: str, from_python: str) -> None:
    assert spelled(text) == from_python
    with command_line():
        assert spelled(text) == by_command


@pytest.mark.parametrize(
    ("value", "by_command", "from_python"),
    [
        (True, "--a-b", "a_b=True"),
        (False, "--no-a-b", "a_b=False"),
        (None, "--a-b None", "a_b=None"),
        ("auto", "--a-b auto", "a_b='auto'"),
        ("two words", "--a-b 'two words'", "a_b='two words'"),
        (0.25, "--a-b 0.25", "a_b=0.25"),
        ((0.5, 2.0), "--a-b 0.5,2", "a_b=(0.5, 2.0)"),
        (Path("a/b"), "--a-b a/b", "a_b='a/b'"),
        ("x" * 10_000, f"--a-b {'x' * 50}...{'x' * 50}", f"a_b='{'x' * 49}...{'x' * 49}'"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_an_option_has_a_value(value: object, by_command: str, from_python: str) -> None:
    assert option("a_b", value) == from_python
    with command_line():
        assert option("a_b", value) == by_command


def dashes_of_messages(path: Path) -> Iterator[str]:
    """Yield where a text of a module names an option with dashes whoever the caller is, and is no whole command."""
    tree = ast.parse(path.read_text())
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or not OPTION.search(node.value):
            continue
        place: ast.AST = node
        while not isinstance(place, ast.stmt) and not (
            isinstance(place, ast.Call) and ast.unparse(place.func).removeprefix("msgspec.") in SPELL
        ):
            place = parents[place]
        is_text = not isinstance(place, ast.Call) and not isinstance(getattr(place, "value", None), ast.Constant)
        if is_text and not re.search(r"petseg-(train|shard|eval)|resume_command|ray start|--array", ast.unparse(place)):
            yield f"{path.relative_to(ROOT)}:{node.lineno}"


def test_no_message_names_an_option_for_one_caller_only() -> None:
    files = [path for package in ("shards", "pipeline", "petseg") for path in (ROOT / package).rglob("*.py")]
    library = [path for path in files if "cli" not in path.parts and str(path.relative_to(ROOT)) not in COMMANDS]
    found = [place for path in library for place in dashes_of_messages(path)]
    assert not [place for place in found if not place.startswith(("shards/errors.py", "shards/console.py"))]
