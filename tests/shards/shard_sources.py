"""Small sources, made in milliseconds, with whatever fault a test wants in them: pets, and scenes of 21 classes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from shards.build.options import PackOptions, options_from
from shards.format.labels import LabelClass, Labels, chosen_colour
from shards.store.open_store import open_store

BREEDS = (("Abyssinian", 1, 1), ("Bengal", 6, 1), ("american_bulldog", 2, 2))


def draw_image(seed: int, *, width: int = 60, height: int = 44) -> np.ndarray:
    """Smooth random pixels, uint8 (height, width, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def draw_mask(seed: int, *, width: int = 60, height: int = 44) -> np.ndarray:
    """An ellipse of 1 with a rim of 3 on 2, uint8 (height, width)."""
    rng = np.random.default_rng(seed + 1000)
    y, x = np.mgrid[0:height, 0:width]
    cx, cy = rng.uniform(0.4, 0.6, 2)
    distance = ((x / width - cx) / 0.3) ** 2 + ((y / height - cy) / 0.3) ** 2
    return np.where(distance < 0.7, 1, np.where(distance < 1.2, 3, 2)).astype(np.uint8)


def encoded(array: np.ndarray, format_: str, **options: object) -> bytes:
    """Encode pixels with Pillow."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format_, **options)
    return buffer.getvalue()


@dataclass
class Maker:
    """Writes a source, pair by pair."""

    folder: Path
    names: list[str] = field(default_factory=list)

    def add(self, name: str, *, image: bytes | None = None, mask: bytes | None = None, seed: int | None = None) -> None:
        seed = len(self.names) if seed is None else seed
        self.write(
            name,
            encoded(draw_image(seed), "JPEG", quality=90) if image is None else image,
            encoded(draw_mask(seed), "PNG") if mask is None else mask,
        )
        self.names.append(name)

    def write(self, name: str, image: bytes | None, mask: bytes | None) -> None:
        for part, ending, data in (("images", "jpg", image), ("annotations/trimaps", "png", mask)):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
            if data is not None:
                (self.folder / part / f"{name}.{ending}").write_bytes(data)

    def lists(self, *, test: Sequence[str], trainval: Sequence[str]) -> None:
        for name, chosen in (("test", test), ("trainval", trainval), ("list", [*trainval, *test])):
            lines = [f"{item} {numbers(item)}\n" for item in chosen]
            (self.folder / "annotations" / f"{name}.txt").write_text("".join(lines))


def numbers(name: str) -> str:
    for breed, class_id, species in BREEDS:
        if name.startswith(breed):
            return f"{class_id} {species} {class_id}"
    return "1 1 1"


def fill(maker: Maker, count: int) -> Path:
    for number in range(count):
        maker.add(f"{BREEDS[number % 3][0]}_{number}")
    maker.lists(test=maker.names[: count // 3], trainval=maker.names[count // 3 :])
    return maker.folder


SCENE_LABELS = Labels(
    classes=tuple(LabelClass(name=f"class {n}", values=(n,), color=chosen_colour(n)) for n in range(21)), ignore=(255,)
)


def draw_scene(seed: int, *, width: int = 60, height: int = 44) -> np.ndarray:
    """Rectangles of 21 classes with ignored rims, uint8 (height, width)."""
    rng = np.random.default_rng(seed + 2000)
    mask = np.zeros((height, width), np.uint8)
    for value in rng.choice(21, 6):
        top, left = int(rng.integers(0, height - 4)), int(rng.integers(0, width - 4))
        bottom, right = top + int(rng.integers(4, height)), left + int(rng.integers(4, width))
        mask[top:bottom, left:right] = 255
        mask[top + 1 : min(bottom, height) - 1, left + 1 : min(right, width) - 1] = value
    return mask


def fill_scenes(folder: Path, count: int, *, image: bytes | None = None, **size: int) -> Path:
    """Scenes in the layout ``folders``: palette masks of 21 classes; images are JPEG, PNG, or must be transcoded."""
    colours = [part for n in range(256) for part in (n, 255 - n, n // 2)]
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        name, format_ = f"scene_{number}", ("JPEG", "PNG", "BMP")[number % 3]
        data = encoded(draw_image(number, **size), format_) if image is None else image
        (folder / "images" / f"{name}.{format_.lower()}").write_bytes(data)
        mask = Image.fromarray(draw_scene(number, **size))
        mask = Image.frombytes("P", mask.size, mask.tobytes())
        mask.putpalette(colours)
        mask.save(folder / "masks" / f"{name}.png")
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def stored(address: str) -> dict[str, bytes]:
    """The same of an address in a store, each file in the version that the list names."""
    store = open_store(address)
    return {name: store.read(name, match=status) for name, status in sorted(store.list(), key=lambda found: found[0])}


SCENES = {"split": "random", "labels": SCENE_LABELS}  # the options of scenes


def options(storage: str = "source", **changes: Any) -> PackOptions:
    """Options with small shards; anything that ``options_from`` takes can be changed."""
    given = {
        "storage": storage,
        "size": None if storage == "source" else 24,
        "quality": None,
        "split": "official",
        "fractions": None,
        "val_fraction": None,
        "seed": 0,
        "samples_per_shard": 4,
    }
    return options_from(**{**given, **changes})
