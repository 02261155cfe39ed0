"""Entries that are no files: pipes, sockets, links to nothing or in a circle. None is waited for; the rest goes on."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

KINDS = ("pipe", "socket", "link to nothing", "link in a circle")


def make(kind: str, path: Path) -> Path:
    """Put such an entry in the place of a file."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        here = Path.cwd()
        os.chdir(path.parent)  # the address of a socket is short
        try:
            socket.socket(socket.AF_UNIX).bind(path.name)
        finally:
            os.chdir(here)
    else:
        path.symlink_to(path.name if kind == "link in a circle" else "nowhere")
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_images_and_masks(kind: str, few_pets: Path, call: Any, tmp_path: Path) -> None:
    source = shutil.copytree(few_pets, tmp_path / "pets")
    first, second, third = sorted(path.stem for path in (source / "images").iterdir())[:3]
    make(kind, source / "images" / f"{first}.jpg")
    make(kind, source / "annotations" / "trimaps" / f"{second}.png")
    make(kind, source / "images" / "unknown.txt")
    done = call("petseg-shard", "build", source, tmp_path / "out", "--workers", 1)
    assert done.code == 0, done.err
    assert "10 of 12 images" in done.out
    assert "1  image-not-a-file: " in done.out
    assert "1  mask-not-a-file: " in done.out
    assert third


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["test.txt", "list.txt"])
def test_lists(kind: str, name: str, few_pets: Path, call: Any, tmp_path: Path) -> None:
    """A list that a link does not lead to is not a list that is absent: class and species would be lost."""
    source = shutil.copytree(few_pets, tmp_path / "pets")
    make(kind, source / "annotations" / name)
    done = call("petseg-shard", "build", source, tmp_path / "out", "--workers", 1)
    assert done.code == 1
    assert f"annotations/{name} " in done.error
    assert "a list of images was expected" in done.error


@pytest.mark.parametrize("kind", KINDS)
def test_options_and_results(kind: str, few_pets: Path, few_shards: Path, call: Any, tmp_path: Path) -> None:
    toml, table = make(kind, tmp_path / "file.toml"), make(kind, tmp_path / "table.csv")
    for place, arguments in (
        (toml, ("shard", "build", few_pets, tmp_path / "out", "--labels", toml)),
        (toml, ("train", "--shards", few_shards, "--config", toml)),
        (toml, ("bench", "show", toml)),
        (table, ("shard", "build", table, tmp_path / "out")),
    ):
        done = call(*arguments)
        assert done.code in (1, 2)
        assert str(place) in done.error
        assert "no layout" not in done.error


@pytest.mark.parametrize("kind", KINDS)
def test_a_set(kind: str, few_shards: Path, call: Any, tmp_path: Path) -> None:
    for name in ("train-000000.tar", "train-000000.idx", "audit.jsonl", "manifest.json"):
        out = shutil.copytree(few_shards, tmp_path / name)
        make(kind, out / name)
        done = call("petseg-shard", "verify", out)
        assert done.code == 1
        assert name in done.out + done.err
        assert len((done.out + done.err).splitlines()) <= 2
    file = tmp_path / "sheet.png"
    assert call("petseg-shard", "preview", tmp_path / "manifest.json", file).code == 1
    assert not file.exists()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    make(kind, elsewhere / "manifest.json")  # the preview looks whether it would be inside a set
    assert call("petseg-shard", "preview", few_shards, elsewhere / "sheet.png").code == 0


def test_a_pipe_as_long_as_an_audit_file_without_findings(few_shards: Path, call: Any, tmp_path: Path) -> None:
    """Its size is the manifest's: 0 bytes."""
    out = shutil.copytree(few_shards, tmp_path / "set")
    assert (out / "audit.jsonl").stat().st_size == 0
    make("pipe", out / "audit.jsonl")
    done = call("petseg-shard", "preview", out, tmp_path / "page.html")
    assert (done.code, done.error) == (1, f"Error: not a regular file ({out}/audit.jsonl)")


@pytest.mark.parametrize("kind", KINDS)
def test_a_run(kind: str, small_run: Path, few_shards: Path, call: Any, tmp_path: Path) -> None:
    for name, said in (("config.json", "config.json"), ("metrics.jsonl", "metrics"), ("last.pt", "last.pt")):
        run = shutil.copytree(small_run, tmp_path / f"run-{name}")
        make(kind, run / name)
        if name == "last.pt":
            (run / "best.pt").unlink()
            done = call("petseg-eval", run, "--shards", few_shards)
        else:
            done = call("petseg-eval", "--compare", run, small_run, "-o", tmp_path / "page.html")
        assert done.code == 1
        assert said in done.error


@pytest.mark.parametrize("recursive", [(), ("--recursive",)], ids=["flat", "recursive"])
def test_images_to_predict(
    recursive: tuple[str, ...], small_run: Path, few_pets: Path, call: Any, tmp_path: Path
) -> None:
    """Those that have an image's name are named and counted, the others are predicted."""
    photos = tmp_path / "photos"
    photos.mkdir()
    shutil.copy(next((few_pets / "images").iterdir()), photos / "cat.jpg")
    wrong = [make(kind, photos / f"dog-{number}.jpg") for number, kind in enumerate(KINDS)]
    for kind in KINDS:
        make(kind, photos / f"notes on a {kind}")
    done = call("petseg-predict", small_run, photos, "-o", tmp_path / "masks", "--device", "cpu", *recursive)
    assert done.code == 1
    *skipped, last = done.err.splitlines()
    assert [line.split(": ")[:2] for line in skipped] == [["skipped", str(path)] for path in wrong]
    assert last == "Error: 4 of 5 images could not be predicted"
    assert (tmp_path / "masks" / "cat.png").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_place_to_write(
    kind: str, small_run: Path, few_pets: Path, few_shards: Path, call: Any, tmp_path: Path
) -> None:
    place = make(kind, tmp_path / "place")
    before = place.lstat()
    image = next((few_pets / "images").iterdir())
    for arguments in (
        ("shard", "sample", place, "--count", 1),
        ("train", "--shards", few_shards, "--run", place),
        ("predict", small_run, image, "-o", place, "--device", "cpu"),
        ("export", small_run, place, "--hub"),
    ):
        if kind == "link to nothing" and arguments[0] != "shard":
            continue  # a folder is made where it leads
        done = call(*arguments)
        assert done.code in (1, 2), arguments
        assert str(place) in done.error
    assert place.lstat().st_ino == before.st_ino
