"""The contact sheet: every tile shows its classes where the mask has them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shard_sources import draw_image, draw_mask

from shards.errors import SampleError
from shards.format.dataset import ShardSet
from shards.preview import COLOURS, HEADER, MARGIN, TILE, contact_sheet, overlay


@pytest.mark.parametrize("storage", ["source", "jpeg", "raw"])
def test_a_sheet_of_any_storage(tiny_sets: dict[str, Path], storage: str, tmp_path: Path) -> None:
    opened = ShardSet.open(tiny_sets[storage])
    assert contact_sheet(opened, tmp_path / "sheet.png", split="train", count=5) == 5
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    tile = sheet[HEADER : HEADER + TILE, MARGIN : MARGIN + TILE]
    for colour in (COLOURS["animal"], COLOURS["border"]):
        assert (tile == colour).all(axis=2).any(), "an outline is missing"


def test_a_count_above_the_splits_size(tiny_sets: dict[str, Path], tmp_path: Path) -> None:
    assert contact_sheet(ShardSet.open(tiny_sets["raw"]), tmp_path / "sheet.png", split="val", count=500) == 4


def test_overlay_leaves_the_background_alone() -> None:
    pixels, mask = draw_image(1), draw_mask(1)
    drawn = overlay(pixels, mask)
    assert np.array_equal(drawn[mask == 2], pixels[mask == 2])
    for value in (1, 3):
        assert (drawn[mask == value] != pixels[mask == value]).any(axis=1).mean() > 0.99


def test_a_damaged_sample_is_named(tiny_sets: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_sets["source"], tmp_path / "set"))
    reader = ShardSet.open(folder).split("train")
    row = reader.rows([0])[0]
    with reader.shard_path(0).open("r+b") as handle:
        handle.seek(int(row["image_offset"]) + 50)
        handle.write(b"damage")
    with pytest.raises(SampleError, match=rf"{reader.key(0)}\.jpg"):
        contact_sheet(ShardSet.open(folder), tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()
