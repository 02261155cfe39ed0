"""Commands that the output names: each does, as it stands, what was promised of it, also with spaces in names."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from shards.cli import main
from shards.format.manifest import why_missing

pytestmark = pytest.mark.usefixtures("built_in_this_process")


def output(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


def advised(text: str, **places: Path) -> list[str]:
    """Return the arguments of the last ``petseg-shard`` command in a text, with paths for its capital words."""
    command = re.findall(r"petseg-shard ([^\n()]*)", text)[-1]
    return [str(places.get(word, word)) for word in shlex.split(command)]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten pairs whose masks hold 0, 1 and 255, without lists of splits, in a folder whose name has a space."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my photos"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    rows = np.repeat(np.array([0, 1, 255], np.uint8), 8)[:, None].repeat(20, axis=1)
    for number in range(10):
        Image.effect_noise((20, 24), 9 + number).convert("RGB").save(
            folder / "images" / f"p {number}.JPG", format="JPEG"
        )
        Image.fromarray(rows).save(folder / "masks" / f"p {number}.PNG", format="PNG")
    return folder


def test_from_masks_to_a_page(photos: Path, tmp_path: Path) -> None:
    """Each command is the one that the output before it ends with."""
    listed = output("labels", photos)
    written = output(*advised(listed))
    assert (tmp_path / "labels.toml").exists()
    built = output(*advised(written, OUT=tmp_path / "a set"))
    assert "10 of 10 images" in built
    assert "10 samples in page.html" in output(*advised(built))
    assert (tmp_path / "page.html").exists()


def test_what_was_asked_of_the_layout_is_in_the_commands(photos: Path) -> None:
    given = ("--layout", "folders", "--mask-suffix", ".PNG")
    written = output(*advised(output("labels", photos, *given)))
    assert "--layout=folders --mask-suffix=.PNG --split random" in written


def test_a_source_in_place_of_a_set(photos: Path, tmp_path: Path) -> None:
    assert advised(why_missing(photos)) == ["build", str(photos), "OUT"]
    for name in ("best.pt", "last.pt"):
        run = tmp_path / f"of {name}"
        run.mkdir()
        (run / name).touch()
        assert (
            why_missing(run)
            == f"{run} is a run, not a shard set; give the folder of the set, the one that holds manifest.json"
        )
        for command in ("info", "verify", "copy"):
            extra = [tmp_path / "copy"] if command == "copy" else []
            assert "is a run, not a shard set" in output(command, run, *extra, code=1)
    assert advised(why_missing(tmp_path / "no set")) == ["build", "SOURCE", str(tmp_path / "no set")]


def test_a_damaged_set(photos: Path, tmp_path: Path) -> None:
    """What verify advises makes the set whole, in either way."""
    output("labels", photos, "-o", "labels.toml")
    build = ("build", photos, tmp_path / "a set", "--labels", "labels.toml", "--split", "random", "--overwrite")
    output(*build)
    output("copy", tmp_path / "a set", tmp_path / "intact")
    tar = tmp_path / "a set" / "train-000000.tar"
    for repair in (0, 1):
        data = bytearray(tar.read_bytes())
        data[600] ^= 255
        tar.write_bytes(data)
        last = output("verify", tmp_path / "a set", code=1).splitlines()[-1]
        copy, again = (shlex.split(each) for each in re.findall(r"\(petseg-shard ([^)]*)\)", last))
        assert "petseg-train --on-error replace" in last
        if repair == 0:
            output(*(str(tmp_path / "intact") if word == "SET" else word for word in copy))
        else:
            places = {"SOURCE": str(photos), "LABELS.toml": "labels.toml"}
            output(*(places.get(word, word) for word in again))
        assert "every byte" in output("verify", tmp_path / "a set")


@pytest.mark.parametrize(("values", "hint"), [([0, 255], False), ([0, 1, 255], True)])
def test_of_binary_masks_255_is_not_said_to_be_ignored(
    values: list[int], hint: bool, photos: Path, tmp_path: Path
) -> None:
    for path in (photos / "masks").iterdir():
        Image.fromarray(np.resize(np.array(values, np.uint8), (24, 20))).save(path)
    text = output("labels", photos, "-o", tmp_path / "labels.toml")
    assert ("--labels binary" in text) is not hint
    assert ("\nonly to name the classes yourself, edit " in text) is not hint
    assert ("\nonly to name the classes yourself, write " in output("labels", photos)) is not hint
    assert ("255 often stands" in text) is hint
    assert ("255 often stands" in (tmp_path / "labels.toml").read_text()) is hint


def test_polygons_in_place_of_masks(photos: Path) -> None:
    for path in (photos / "masks").iterdir():
        path.rename(path.with_suffix(".json"))
    assert "polygons (COCO, labelme) are not read" in output("labels", photos, code=1)


def test_numbers_have_their_nouns(photos: Path, tmp_path: Path) -> None:
    """Of one image nothing is said in the plural."""
    for path in [*(photos / "images").iterdir(), *(photos / "masks").iterdir()]:
        if path.stem != "p 3":
            path.unlink()
    texts = [output("labels", photos, "-o", tmp_path / "labels.toml")]
    texts.append(output("build", photos, tmp_path / "set", "--labels", tmp_path / "labels.toml", "--split", "random"))
    texts += [output(command, tmp_path / "set") for command in ("info", "verify")]
    texts += [output("preview", tmp_path / "set", tmp_path / "page.html"), output("copy", tmp_path / "set", "copy")]
    assert not [line for text in texts for line in text.splitlines() if re.search(r"(?<![\d.,])1 \w+s\b(?![ /])", line)]
    assert [text for text in texts if "1 sample " in text or "1 mask," in text]


def test_a_single_class_is_named(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text('ignore = [0, 255]\n[[class]]\nname = "cat"\nvalue = 1\n')
    built = output("build", photos, tmp_path / "set", "--labels", "one.toml", "--split", "random")
    assert "all labelled pixels are cat: give what is around it a class, too" in built
    output("labels", photos, "-o", "labels.toml")
    several = output("build", photos, tmp_path / "other", "--labels", "labels.toml", "--split", "random")
    assert "all labelled pixels" not in several
