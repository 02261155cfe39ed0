"""The same real images in three layouts, as somebody else's dataset would be: cat or dog per pixel, borders ignored."""

from __future__ import annotations

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

VALUES = {"cat": 1, "dog": 2}  # 0 background, 255 where the trimap has its border
PALETTE = [0, 0, 0, 200, 40, 40, 40, 80, 200]
LABELS = """\
ignore = 255
[[class]]
name = "background"
value = 0
color = "#000000"
[[class]]
name = "cat"
value = 1
color = "#c82828"
[[class]]
name = "dog"
value = 2
color = "#2850c8"
"""


@dataclass(frozen=True)
class Item:
    """An image of the new dataset."""

    name: str
    image: Path
    mask: np.ndarray  # uint8 (H, W)
    split: str


def read_items(pets: Path, *, count: int) -> list[Item]:
    """Take images of the pets, as many cats as dogs; two thirds are train, then val and test."""
    by_kind: dict[str, list[str]] = {"cat": [], "dog": []}
    for path in sorted((pets / "images").glob("*.jpg")):
        if (pets / "annotations" / "trimaps" / f"{path.stem}.png").exists() and path.read_bytes()[
            :3
        ] == b"\xff\xd8\xff":
            by_kind["cat" if path.stem[0].isupper() else "dog"].append(path.stem)
    items = []
    for kind, names in by_kind.items():
        for number, name in enumerate(names[: count // 2]):
            trimap = np.asarray(Image.open(pets / "annotations" / "trimaps" / f"{name}.png"))
            mask = np.select([trimap == 1, trimap == 2], [VALUES[kind], 0], 255).astype(np.uint8)
            split = ("train", "train", "train", "train", "val", "test")[number % 6]
            items.append(Item(name=name, image=pets / "images" / f"{name}.jpg", mask=mask, split=split))
    return items


def write_mask(mask: np.ndarray, path: Path, *, palette: bool = False) -> None:
    """Write a mask as a PNG, grey or with VOC's kind of palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    if palette:
        image.putpalette([*PALETTE, *bytes(3 * 253)])  # of a shorter palette, Pillow writes too few bits a pixel
    image.save(path)


def copy_image(item: Item, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(item.image, path)


def make_voc(items: list[Item], root: Path) -> Path:
    """JPEGImages, SegmentationClass with palettes, ImageSets/Segmentation."""
    for item in items:
        copy_image(item, root / "JPEGImages" / f"{item.name}.jpg")
        write_mask(item.mask, root / "SegmentationClass" / f"{item.name}.png", palette=True)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split in ("train", "val", "test"):
        names = [item.name for item in items if item.split == split]
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return root


def make_folders(items: list[Item], root: Path) -> Path:
    """images/SPLIT/NAME.jpg and masks/SPLIT/NAME.png."""
    for item in items:
        copy_image(item, root / "images" / item.split / f"{item.name}.jpg")
        write_mask(item.mask, root / "masks" / item.split / f"{item.name}.png")
    return root


def make_csv(items: list[Item], root: Path) -> Path:
    """A table beside two folders."""
    rows = []
    for item in items:
        copy_image(item, root / "photos" / f"{item.name}.jpg")
        write_mask(item.mask, root / "truth" / f"{item.name}.png")
        rows.append([f"photos/{item.name}.jpg", f"truth/{item.name}.png", item.split])
    with (root / "samples.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([["image", "mask", "split"], *rows])
    return root
