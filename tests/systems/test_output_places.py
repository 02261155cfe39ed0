"""No command writes inside a set or a run, nor over a file unasked: one rule, asked by all of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import petseg
from petseg.exporters import export_weights
from petseg.runs.initial_weights import read_initial_weights
from shards.errors import UsageError
from shards.format.readers.output_places import expect_outside

if TYPE_CHECKING:
    from conftest import Call

# Program, then arguments; OUT is inside the set or the run.
COMMANDS = {
    "copy": ("petseg-shard", "copy", "SET", "OUT"),
    "build": ("petseg-shard", "build", "PETS", "OUT"),
    "task": ("petseg-shard", "build", "PETS", "OUT", "--task", "0", "--tasks", "2"),
    "sample": ("petseg-shard", "sample", "OUT", "--count", "1"),
    "download": ("petseg-shard", "download", "OUT", "--mirror", "file:///nowhere"),
    "labels": ("petseg-shard", "labels", "PETS", "-o", "OUT", "--overwrite"),
    "sheet": ("petseg-shard", "preview", "SET", "OUT.png", "--overwrite"),
    "page": ("petseg-shard", "preview", "SET", "OUT.html", "--overwrite"),
    "train": ("petseg-train", "--shards", "SET", "--run", "OUT"),
    "table": ("petseg-eval", "RUN", "--shards", "SET", "--csv", "OUT", "--overwrite"),
    "predict": ("petseg-predict", "RUN", "PETS/images", "-o", "OUT", "--overwrite"),
    "onnx": ("petseg-export", "RUN", "OUT.onnx", "--overwrite"),
    "weights": ("petseg-export", "RUN", "OUT.safetensors", "--overwrite"),
    "hub": ("petseg-export", "RUN", "OUT", "--hub", "--overwrite"),
    "bench": ("petseg-bench", "loader", "--shards", "SET", "--json", "OUT"),
}


def tree(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def kept(few_shards: Path, small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A set and a run, with a folder in each, as a program of an earlier version has left it."""
    folder = tmp_path_factory.mktemp("kept")
    for name, source in (("set", few_shards), ("run", small_run)):
        shutil.copytree(source, folder / name)
        (folder / name / "inner").mkdir()
    return {"set": folder / "set", "run": folder / "run"}


@pytest.mark.parametrize("where", ["set", "run"])
@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_is_written_there(
    call: Call, few_pets: Path, few_shards: Path, small_run: Path, kept: dict[str, Path], name: str, where: str
) -> None:
    before = tree(kept[where])
    places = {"PETS": str(few_pets), "SET": str(few_shards), "RUN": str(small_run), "OUT": f"{kept[where]}/inner/x"}
    program, *arguments = COMMANDS[name]
    for word, place in places.items():
        arguments = [each.replace(word, place, 1) if each.startswith(word) else each for each in arguments]
    result = call(program, *arguments)
    assert (result.code, result.out) == (2, "")
    what = {"set": "a shard set", "run": "a run"}[where]
    assert f"Error: {kept[where]} is {what}, which keeps its folder to itself" in result.err
    assert tree(kept[where]) == before


# Those whose file is at OUT; the name that it has then.
FILES = {
    "labels": "x.toml",
    "sheet": "x.png",
    "page": "x.html",
    "table": "x.csv",
    "weights": "x.safetensors",
    "hub": "config.json",
    "predict": "",
}


@pytest.mark.parametrize("name", FILES)
def test_what_another_process_has_written_meanwhile_stays(
    call: Call,
    few_pets: Path,
    few_shards: Path,
    small_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """It was not there when the command began, nor when it looked the last time."""
    for module in (
        "shards.format.readers.output_places",
        "petseg.inference.files.file_jobs",
        "petseg.inference.files.existing_results",
    ):
        monkeypatch.setattr(f"{module}.expect_replaceable", lambda *_, **__: None)
    monkeypatch.setattr("petseg.inference.files.existing_results.is_result", lambda _: True)
    out = tmp_path if name in ("hub", "predict") else tmp_path / FILES[name].removesuffix(".toml")
    image = next((few_pets / "images").iterdir())
    file = tmp_path / (FILES[name] or f"{image.stem}.png")
    file.write_text("theirs")
    program, *arguments = (each for each in COMMANDS[name] if each != "--overwrite")
    places = {"PETS/images": image, "PETS": few_pets, "SET": few_shards, "RUN": small_run, "OUT": out}
    places |= {"OUT.png": file, "OUT.html": file, "OUT.safetensors": file}
    arguments = [str(file if (name, each) == ("labels", "OUT") else places.get(each, each)) for each in arguments]
    result = call(program, *arguments)
    assert result.code == 1
    assert result.err.splitlines()[-1] == f"Error: {file} exists already; choose another name"
    assert file.read_text() == "theirs"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".partial-")]
    if name == "predict":
        assert list(tmp_path.iterdir()) == [file]


ENDINGS = {
    ("petseg-shard", "labels", "PETS", "-o", "OUT"): ".toml",
    ("petseg-shard", "preview", "SET", "OUT"): ".png or .html",
    ("petseg-eval", "RUN", "--shards", "SET", "--csv", "OUT"): ".csv",
    ("petseg-eval", "--compare", "RUN", "RUN", "-o", "OUT"): ".html",
    ("petseg-export", "RUN", "OUT"): ".onnx or .safetensors; --hub writes a folder",
    ("petseg-bench", "loader", "--shards", "/nowhere", "--json", "OUT"): ".json",
    ("petseg-bench", "loader", "--shards", "/nowhere", "--plot", "OUT"): ".svg or .png",
}


@pytest.mark.parametrize("name", ["out", "out.txt", "out.toml.bak"])
@pytest.mark.parametrize("command", ENDINGS, ids=" ".join)
def test_a_name_that_does_not_say_what_its_file_will_hold(
    call: Call, few_pets: Path, few_shards: Path, small_run: Path, tmp_path: Path, command: tuple[str, ...], name: str
) -> None:
    out = tmp_path / name
    places = {"PETS": few_pets, "SET": few_shards, "RUN": small_run, "OUT": out}
    result = call(*(places.get(word, word) for word in command))
    assert (result.code, result.out) == (2, "")
    assert f"Error: {out}: the name must end in {ENDINGS[command]}" in result.err
    assert not list(tmp_path.iterdir())


def test_an_ending_in_capitals_says_the_same(call: Call, few_pets: Path, small_run: Path, tmp_path: Path) -> None:
    assert call("petseg-shard", "labels", few_pets, "-o", tmp_path / "a.TOML").code == 0
    assert call("petseg-export", small_run, tmp_path / "a.SafeTensors").code == 0
    assert "a.SafeTensors" in (tmp_path / "a.md").read_text()
    assert (
        read_initial_weights(str(tmp_path / "a.SafeTensors")).weights.keys()
        == petseg.load(small_run).model.state_dict().keys()
    )
    (tmp_path / "other").write_text("mine")
    with pytest.raises(UsageError, match=r"other: the name must end in \.onnx or \.safetensors; hub=True"):
        petseg.export(small_run, tmp_path / "other", overwrite=True)
    with pytest.raises(UsageError, match=r"the name must end in \.safetensors"):
        export_weights(petseg.load(small_run), tmp_path / "a.md", overwrite=True)


def other_programs_set(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"name": "a web page", "icons": []}')
    for table in folder.glob("*.npy"):
        table.unlink()


def other_programs_run(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "segformer"}')
    for name in ("last.pt", "best.pt"):
        (folder / name).unlink()


@pytest.mark.parametrize(
    ("where", "change", "refused"),
    [
        ("set", lambda folder: (folder / "manifest.json").write_text("damaged"), True),
        ("run", lambda folder: (folder / "config.json").unlink(), True),
        ("run", lambda folder: [(folder / name).unlink() for name in ("last.pt", "best.pt")], True),
        ("set", other_programs_set, False),
        ("run", other_programs_run, False),
    ],
)
def test_what_counts_as_a_set_or_a_run(
    few_shards: Path, small_run: Path, tmp_path: Path, where: str, change: Callable[[Path], object], refused: bool
) -> None:
    """Also a damaged one; but no folder of another program."""
    folder = shutil.copytree({"set": few_shards, "run": small_run}[where], tmp_path / "kept")
    change(folder)
    link = tmp_path / "link"
    link.symlink_to(folder / "file.csv")
    for place in (folder / "file.csv", link):
        if refused:
            with pytest.raises(UsageError, match="keeps its folder to itself"):
                expect_outside(place)
        else:
            expect_outside(place)
    expect_outside(folder)


@pytest.mark.parametrize("link", [None, Path.symlink_to, Path.hardlink_to])
@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("x.csv", ("petseg-shard", "labels", "IN", "-o", "OUT", "--overwrite")),
        ("best.model", ("petseg-eval", "IN", "--shards", "SET", "--csv", "OUT", "--overwrite")),
        ("x.onnx", ("petseg-export", "IN", "OUT", "--overwrite")),
        ("x.safetensors", ("petseg-export", "IN", "OUT", "--overwrite")),
    ],
)
def test_what_is_read_is_not_overwritten(
    call: Call,
    few_shards: Path,
    tmp_path: Path,
    name: str,
    command: tuple[str, ...],
    link: Callable[[Path, Path], None],
) -> None:
    file = target = tmp_path / name
    file.write_text("image,mask\n")
    if link:
        target = tmp_path / f"link-{name}"
        link(target, file)
    places = {"IN": file, "OUT": target, "SET": few_shards}
    result = call(*(places.get(word, word) for word in command))
    assert result.code == 2
    assert result.error.startswith(f"Error: {target} is what is read, and would be overwritten; choose another name")
    assert file.read_text() == "image,mask\n"


def test_an_export_from_python_never_replaces_what_it_reads(small_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    shutil.copyfile(small_run / "best.pt", file)
    before = file.read_bytes()
    with pytest.raises(UsageError, match="is what is read, and would be overwritten"):
        petseg.export(file, file, overwrite=True)
    assert file.read_bytes() == before
