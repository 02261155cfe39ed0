"""The commands and the Python of README.md and docs/: every option exists, and the examples run as they stand."""

from __future__ import annotations

import itertools
import re
import shlex
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import click
import numpy as np
import pytest
from PIL import Image

import petseg
from petseg.runs.encoder_options import SCALE_OF_SMALL, WITH_WEIGHTS
from petseg.runs.recipe import RuntimeOptions
from shards.format.label_files import find_labels

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.usefixtures("built_in_this_process")
PAGES = ("README.md", "docs/training.md")  # the page of clusters has tests of its own
PROGRAMS = {each.name: each for each in entry_points(group="console_scripts") if each.name.startswith("petseg-")}


def blocks(page: str, language: str) -> list[str]:
    """Return the fenced blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[list[str]]:
    """Return the words of each command line of the project in the shell's blocks of a page."""
    found = []
    for line in "".join(blocks(page, "(?:sh|bash)")).replace("\\\n", " ").splitlines():
        if not any(f"{program} " in line.partition("# ")[0] for program in PROGRAMS):
            continue
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        command = list(itertools.takewhile(lambda word: not set(word) <= set("|&;()<>"), words))
        starts = [place for place, word in enumerate(command) if word in PROGRAMS]
        found += [command[starts[-1] :]] if starts else []
    return found


def example(page: str, part: str) -> str:
    """Return the first Python block of a page that holds a text."""
    return next(block for block in blocks(page, "python") if part in block)


@pytest.mark.parametrize("page", PAGES)
def test_documented_commands_have_these_options(page: str) -> None:
    for words in commands(page):
        command, arguments = PROGRAMS[words[0]].load(), words[1:]
        context = command.make_context(words[0], arguments)
        if isinstance(command, click.Group):
            _, command, arguments = command.resolve_command(context, arguments)
            command.make_context(words[1], arguments, parent=context)


def options(command: click.Command, name: str) -> list[tuple[str, click.Option]]:
    """Return the options of a command and its subcommands, each with the name of its command."""
    found = [(name, each) for each in command.params if isinstance(each, click.Option)]
    subcommands = command.commands.items() if isinstance(command, click.Group) else ()
    return found + [pair for word, each in subcommands for pair in options(each, f"{name} {word}")]


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_says_what_every_option_does(program: str) -> None:
    command = PROGRAMS[program].load()
    for name, option in options(command, program):
        says = (option.help or "").partition("[default")[0].strip()
        assert says or option.hidden, f"{name} {option.opts[0]}"
        assert not isinstance(option.show_default, str), f"{name} {option.opts[0]}: click shows it in parentheses"


def test_what_an_encoder_with_weights_changes_is_documented() -> None:
    text = (ROOT / "docs/training.md").read_text()
    (listed,) = re.findall(r"changes what a run does unless it is said otherwise: (.*?)\(", text, re.DOTALL)
    for name, value in {**WITH_WEIGHTS, "input_scale": SCALE_OF_SMALL}.items():
        shown = f"{value:g}" if isinstance(value, float) else value
        assert f"`--{name.replace('_', '-')} {shown}`" in listed


def test_what_may_change_when_a_run_is_resumed_is_documented() -> None:
    text = (ROOT / "docs/training.md").read_text()
    (listed,) = re.findall(r"Options that do not determine the\n(.*?)\n\n", text, re.DOTALL)
    (others,) = re.findall(r"^### Damaged samples\n(.*?)^#", text, re.DOTALL | re.MULTILINE)
    named = {name.replace("-", "_") for name in re.findall(r"--([a-z-]+)", listed)}
    assert named == {*RuntimeOptions.__struct_fields__} - {"on_error", "max_damaged"}
    assert "`--on-error replace`" in others
    assert "`--max-damaged`" in others


def test_every_program_is_documented() -> None:
    assert {words[0] for page in PAGES for words in commands(page)} >= PROGRAMS.keys() - {"petseg-bench"}


@pytest.mark.parametrize("page", ["README.md", "docs/training.md"])
def test_the_functions_take_these_arguments(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called = {}
    for name in ("build_shards", "evaluate", "export", "predict", "train"):
        called[name] = create_autospec(getattr(petseg, name))
        monkeypatch.setattr(petseg, name, called[name])
    exec(example(page, "export(run"), {"__name__": "__main__"})
    assert all(each.called for each in called.values())


def test_the_loader_resumes(synthetic_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands, on a machine without GPU; what it resumes with is the batch that comes next."""
    (tmp_path / "pets-shards").symlink_to(synthetic_set)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(example("README.md", "load_state_dict"), names)
    reference = petseg.Loader("pets-shards", **names["options"])
    second = [batch for _ in range(2) for batch in reference][1]
    assert names["batch"].index.tolist() == second.index.tolist()
    assert np.isfinite(names["loss"].item())


def test_an_own_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_report: None) -> None:
    """The labels file and the Python of the README, for images and masks without lists of splits."""
    monkeypatch.chdir(tmp_path)
    for name in ("images", "masks"):
        (tmp_path / "street" / name).mkdir(parents=True)
    for number in range(12):
        mask = np.resize(np.array([0, 1, 2, 255], np.uint8), (36, 48))
        Image.fromarray(mask).save(tmp_path / "street" / "masks" / f"p {number}.png")
        Image.fromarray(np.full((36, 48, 3), 20 * number, np.uint8)).save(tmp_path / f"street/images/p {number}.jpg")
    (tmp_path / "labels.toml").write_text(blocks("README.md", "toml")[0])
    train, given = petseg.train, dict[str, Any]()

    def briefly(shards: str, *, options: dict[str, Any]) -> Path:
        given.update(options)
        return train(shards, run="run", options={**options, "epochs": 1, "widths": (4, 8), "batch_size": 4})

    monkeypatch.setattr(petseg, "train", briefly)
    exec(example("README.md", "labels.toml"), {"__name__": "__main__"})
    assert given["epochs"] > 1
    assert petseg.load("run").labels.names == ("background", "cat", "dog")
    assert (tmp_path / "run" / "best.pt").exists()


def test_images_and_masks_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The suffixes of the README: images and masks of both examples are found, and each has its mask."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text()
    for folder, image, mask, options in (
        ("one", "0001.jpg", "0001_mask.gif", {"mask_suffix": "_mask.gif"}),
        ("two", "1_sat.jpg", "1_mask.png", {"image_suffix": "_sat.jpg", "mask_suffix": "_mask.png"}),
    ):
        assert f"`{image}`" in text
        assert f"`{mask}`" in text
        assert any(option in text for option in options.values())
        (tmp_path / folder).mkdir()
        Image.fromarray(np.full((4, 4, 3), 90, np.uint8)).save(tmp_path / folder / image)
        Image.fromarray(np.eye(4, dtype=np.uint8) * 255).save(tmp_path / folder / mask)
        built = petseg.build_shards(folder, f"{folder}-shards", labels="binary", split="random", **options)
        assert repr(built) == f"<BuildResult: 1 of 1 image in {folder}-shards>"
        manifest = built.manifest
        assert (manifest.options.layout, manifest.audit.packed) == ("folders", 1)


def test_a_table_of_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python of the page of formats, for the class_dict.csv of CamVid and others."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "class_dict.csv").write_text('name, r, g, b\nSky, 128, 128, 128\n"Car ""x""", 64, 0, 128\n')
    exec(example("docs/formats.md", "class_dict.csv"), {})
    labels = find_labels("labels.toml")
    assert labels.names == ("Sky", 'Car "x"')
    assert [each.source_colors for each in labels.classes] == [("#808080",), ("#400080",)]


def test_the_rates_of_the_storages_are_those_of_the_figures() -> None:
    text = (ROOT / "README.md").read_text()
    for storage in ("source", "jpeg", "raw"):
        measured = re.findall(rf"^\| `{storage}`, evaluation, one-hot \|.*?x \(([\d,]+) ", text, re.MULTILINE)[0]
        shown = re.findall(rf"^\| `{storage}[^|]*\|[^|]*\| ([\d,]+) images/s", text, re.MULTILINE)
        assert shown == [f"{round(int(measured.replace(',', '')), -2):,}"]
