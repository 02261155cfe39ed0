"""Somebody's own dataset, from its folders to predictions, with the commands of the README."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards import ShardSet

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode does not
from own_datasets import LABELS, PALETTE, Item, make_csv, make_folders, make_voc, read_items

Command = Callable[..., subprocess.CompletedProcess[str]]
LAYOUTS = {"voc": make_voc, "folders": make_folders, "csv": make_csv}


@pytest.fixture(scope="module")
def items(real_pets: Path) -> list[Item]:
    return read_items(real_pets, count=36)


@pytest.fixture(scope="module")
def sets(items: list[Item], command: Command, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A shard set of each layout; the layout is found out, the classes come from a labels file."""
    root = tmp_path_factory.mktemp("own")
    (root / "labels.toml").write_text(LABELS)
    built = {}
    for layout, make in LAYOUTS.items():
        built[layout] = root / f"{layout}-shards"
        source = make(items, root / layout)
        result = command(
            "petseg-shard", "build", source, built[layout], "--labels", root / "labels.toml", "--workers", "1"
        )
        assert layout in result.stdout
    return built


def contents(folder: Path) -> dict[tuple[str, str], tuple[bytes, bytes]]:
    """Return image and mask of every sample, by split and key."""
    shards = ShardSet.open(folder)
    found = {}
    for split in shards.manifest.splits:
        reader = shards.split(split)
        for index in range(len(reader)):
            found[split, reader.key(index)] = reader.read(index, "image"), reader.read(index, "mask")
    return found


def test_the_same_images_in_three_layouts_give_the_same_samples(sets: dict[str, Path], items: list[Item]) -> None:
    voc, folders, table = (contents(sets[layout]) for layout in LAYOUTS)
    assert voc == folders == table
    assert {(item.split, item.name) for item in items} == set(voc)
    fingerprints = {ShardSet.open(path).manifest.fingerprint for path in sets.values()}
    assert len(fingerprints) == 1


def test_masks_are_what_the_files_say(sets: dict[str, Path], items: list[Item]) -> None:
    shards = ShardSet.open(sets["voc"])
    assert shards.manifest.labels.names == ("background", "cat", "dog")
    counted = np.zeros(256, dtype=np.int64)
    for item in items:
        counted += np.bincount(item.mask.reshape(-1), minlength=256)
    splits = shards.manifest.splits.values()
    assert [sum(split.class_pixels[i] for split in splits) for i in range(3)] == counted[:3].tolist()
    assert sum(split.ignored_pixels for split in splits) == counted[255]


def run_here(name: str, *arguments: str | Path) -> str:
    """Run an installed command in this process, which has imported torch already; return what it prints."""
    (program,) = entry_points(group="console_scripts", name=name)
    with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit) as ended:
        program.load().main(args=[*map(str, arguments)], prog_name=name)
    assert not ended.value.code, printed.getvalue()
    return printed.getvalue()


@pytest.mark.parametrize("fit", ["cover", "contain"])
def test_train_evaluate_report_predict(
    fit: str, sets: dict[str, Path], items: list[Item], tmp_path: Path, campaign: Callable[[int, int], int]
) -> None:
    if fit == "cover" and not campaign(0, 1):
        pytest.skip("with --campaign: the same commands, and what covers is tested for each of them")
    shards, run = sets["folders"], tmp_path / "run"
    options = ["--size", "64x96", "--fit", fit, "--epochs", "1", "--widths", "8,16", "--batch-size", "8"]
    run_here("petseg-train", "--shards", shards, "--run", run, *options)
    page = (run / "report.html").read_text()
    assert all(name in page for name in ("background", "cat", "dog"))
    assert (run / "gallery.png").exists()

    scores = json.loads(run_here("petseg-eval", run, "--shards", shards, "--json"))
    assert scores["samples"] == 6
    assert len(scores["iou"]) == 3
    assert 0 < scores["pixel_accuracy"] <= 1
    whole = json.loads(run_here("petseg-eval", run, "--shards", shards, "--original-resolution", "--json"))
    assert whole["samples"] == 6

    item = next(item for item in items if item.split == "test")
    run_here("petseg-predict", run, item.image, "-o", tmp_path / "masks")
    with Image.open(tmp_path / "masks" / f"{item.name}.png") as mask:
        assert mask.mode == "P"
        assert np.asarray(mask).shape == item.mask.shape
        assert set(np.unique(np.asarray(mask)).tolist()) <= {0, 1, 2}  # the source's own values
        assert mask.getpalette()[: len(PALETTE)] == PALETTE
