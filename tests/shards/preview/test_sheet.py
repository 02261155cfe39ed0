"""The contact sheet: every tile shows its classes where the mask has them, at the shape of the set's images."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shard_sources import Maker, draw_image, encoded, options

from shards.build.build_set import build
from shards.errors import SampleError, UsageError
from shards.format.builtin_labels import PETS
from shards.format.dataset import ShardSet
from shards.format.labels import UNTINTED, LabelClass, Labels, chosen_colour, colour_of
from shards.preview.sheet import TILE, contact_sheet

MANY = Labels(
    classes=tuple(
        LabelClass(name=f"class {value}", color=chosen_colour(value) if value else UNTINTED, values=(value,))
        for value in range(150)
    ),
    ignore=(255,),
)


def colours_in(sheet: Path) -> set[tuple[int, ...]]:
    pixels = np.asarray(Image.open(sheet))
    return {tuple(colour) for colour in np.unique(pixels.reshape(-1, 3), axis=0).tolist()}


def many_classes(maker: Maker, out: Path, **changes: object) -> Path:
    """A set of 150 classes, each sample with three of its own, 60 x 44 pixels."""
    for number in range(20):
        mask = np.repeat(np.array([3 * number, 3 * number + 1, 3 * number + 2, 255], dtype=np.uint8), 15)
        maker.add(f"s_{number}", mask=encoded(np.tile(mask, (44, 1)), "PNG"))
    build(maker.folder, out, options(split="random", fractions=(1, 0, 0), labels=MANY, **changes), workers=1)
    return out


@pytest.mark.parametrize("storage", ["source", "jpeg", "raw"])
def test_a_sheet_of_any_storage(tiny_sets: dict[str, Path], storage: str, tmp_path: Path) -> None:
    opened = ShardSet.open(tiny_sets[storage])
    assert contact_sheet(opened, tmp_path / "sheet.png", split="train", count=5) == 5
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))
    tiles = pixels[100:]  # below the legend
    for each in PETS.classes:
        outlined = (tiles == colour_of(each.color)).all(axis=2).sum()
        assert (outlined > 100) == (each.color != UNTINTED), each.name


def test_a_count_above_the_splits_size(tiny_sets: dict[str, Path], tmp_path: Path) -> None:
    assert contact_sheet(ShardSet.open(tiny_sets["raw"]), tmp_path / "sheet.png", split="val", count=500) == 4


@pytest.mark.parametrize(("size", "height"), [("96x160", 132), ("20x40", 110), ("10x100", 77), ("50x25", 308)])
def test_tiles_follow_the_stored_shape(tiny_pets: Path, tmp_path: Path, size: str, height: int) -> None:
    build(tiny_pets, tmp_path / "set", options("raw", size=size), workers=1)
    contact_sheet(ShardSet.open(tmp_path / "set"), tmp_path / "one.png", count=1)
    contact_sheet(ShardSet.open(tmp_path / "set"), tmp_path / "rows.png", count=16)
    one, rows = Image.open(tmp_path / "one.png"), Image.open(tmp_path / "rows.png")
    columns = (rows.width - 12) // (TILE + 12)
    assert rows.height - one.height == (-(-16 // columns) - 1) * (height + 46)


def test_a_legend_of_the_classes_that_occur(maker: Maker, tmp_path: Path) -> None:
    opened = ShardSet.open(many_classes(maker, tmp_path / "set"))
    contact_sheet(opened, tmp_path / "sheet.png", count=20)
    colours = colours_in(tmp_path / "sheet.png")
    shown = {each.name for each in MANY.classes[1:] if colour_of(each.color) in colours}
    assert shown == {f"class {value}" for value in range(1, 60)}


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


def test_grey_and_large_images(maker: Maker, tmp_path: Path) -> None:
    """A large JPEG is decoded at a part of its size; a grey one is shown in grey."""
    large = draw_image(3, width=1900, height=1400)
    maker.add("large_1", image=encoded(large, "JPEG"), mask=encoded(np.ones((1400, 1900), dtype=np.uint8), "PNG"))
    maker.add("grey_1", image=encoded(draw_image(1)[..., 0], "JPEG"))
    build(maker.folder, tmp_path / "set", options(split="random", fractions=(1, 0, 0)), workers=1)
    assert contact_sheet(ShardSet.open(tmp_path / "set"), tmp_path / "sheet.png") == 2


def test_what_exists_is_replaced_only_if_asked(tiny_sets: dict[str, Path], tmp_path: Path) -> None:
    opened, sheet = ShardSet.open(tiny_sets["raw"]), tmp_path / "sheet.png"
    sheet.write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists already; choose another name, or add overwrite=True"):
        contact_sheet(opened, sheet)
    assert sheet.read_bytes() == b"mine"
    contact_sheet(opened, sheet, overwrite=True)
    assert Image.open(sheet).format == "PNG"


@pytest.mark.parametrize("name", ["sheet.png", "inner/sheet.png", "train-000000.png"])
def test_nothing_is_written_into_a_set(tiny_sets: dict[str, Path], tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(tiny_sets["raw"], tmp_path / "set"))
    (folder / "inner").mkdir()
    for opened in (ShardSet.open(folder), ShardSet.open(tiny_sets["jpeg"])):
        with pytest.raises(UsageError, match=r"set is a shard set, which keeps its folder to itself"):
            contact_sheet(opened, folder / name, overwrite=True)
    assert not (folder / name).exists()


def test_a_link_into_a_set_is_followed(tiny_sets: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_sets["raw"], tmp_path / "set"))
    (tmp_path / "sheet.png").symlink_to(folder / "audit.jsonl")
    with pytest.raises(UsageError, match="is a shard set"):
        contact_sheet(ShardSet.open(folder), tmp_path / "sheet.png", overwrite=True)
