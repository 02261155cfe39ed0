"""Shard sets of any labels, built from drawn scenes: bands and discs, each class in a colour of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from PIL import Image
from sample_runs import ENTRY, SCORES

from petseg.nets.factory import build_model
from petseg.nets.model_config import ModelConfig
from petseg.runs.checkpoint import Checkpoint, save_checkpoint
from petseg.runs.recipe import default_recipe
from shards.build.build_set import build
from shards.build.options import options_from
from shards.format.geometry import Size
from shards.format.labels import IGNORE, LabelClass, Labels, chosen_colour, colour_of
from shards.format.overlays import indexed_mask
from shards.sources.layout_protocol import FileStamp, Pair, Source

# Names that formulas, HTML and legends would take for something else.
AWKWARD = ("$x_1$ and $y$", "<b>bold</b> & co", "_hidden", "100% | `tick`", "{brace} {{x}}")


def many_labels(count: int, *, rgb: bool = False, ignore: bool = True) -> Labels:
    """Labels of some classes; the first ones have awkward names, and values and indices differ."""
    names = [*AWKWARD, *(f"class {n}" for n in range(len(AWKWARD), count))][:count]
    classes = tuple(
        LabelClass(name=name, color=chosen_colour(n), source_colors=(f"#{n:02x}7f20",))
        if rgb
        else LabelClass(name=name, color=chosen_colour(n), values=(n + 3,))
        for n, name in enumerate(names)
    )
    ignored: dict[str, Any] = {"ignore_colors": ("#ffffff",)} if rgb else {"ignore": (0,)}
    return Labels(classes=classes, **(ignored if ignore else {}))


def draw_scene(labels: Labels, height: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image, uint8 (H, W, 3), and its mask of class indices with some ignored pixels, uint8 (H, W)."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    slope = random.uniform(-0.2, 0.2)
    bands = random.integers(0, len(labels), 4)
    mask = bands[np.clip(((y + slope * x) / height * 4).astype(int), 0, 3)].astype(np.uint8)
    for _ in range(4):
        top, left, radius = random.uniform(0, height), random.uniform(0, width), random.uniform(0.1, 0.25) * height
        mask[(y - top) ** 2 + (x - left) ** 2 < radius**2] = random.integers(0, len(labels))
    image = np.array([colour_of(chosen_colour(n)) for n in range(len(labels))])[mask]
    image = np.clip(image + random.normal(0, 14, image.shape) + 30 * (x / width)[..., None] - 15, 0, 255)
    if labels.ignore or labels.ignore_colors:
        mask[: max(1, height // 12)] = IGNORE
    return image.astype(np.uint8), mask


def write_untrained(
    folder: Path,
    labels: Labels,
    *,
    fit: str = "stretch",
    size: Size = (32, 48),
    crop_scale: tuple[float, float] | None = None,
    **model: Any,
) -> Path:
    """Write a run's best.pt with random weights, which predict several classes; return the folder."""
    torch.manual_seed(1)
    config = ModelConfig(**{"widths": (8, 16), "classes": len(labels), **model})
    recipe = msgspec.structs.replace(default_recipe("unet"), model=config, size=size, fit=fit, crop_scale=crop_scale)
    network = build_model(config)
    with torch.no_grad():  # else the head's bias decides most pixels
        network.head.weight.mul_(8)
    scores = {**SCORES, "mean_iou": 0.25, "iou": [None, *([0.25] * (len(labels) - 1))]}
    folder.mkdir(parents=True, exist_ok=True)
    save_checkpoint(
        folder / "best.pt",
        Checkpoint(
            config=msgspec.to_builtins(recipe),
            labels=labels,
            position={},
            history=[{**ENTRY, "val": scores, "train": scores}],
            loader=None,
            model=network.state_dict(),
            average=None,
            optimizer={},
            scaler={},
        ),
    )
    return folder


def smooth_image(path: Path, size: tuple[int, int], seed: int = 1) -> Path:
    """Write a PNG of (width, height) pixels whose colours change slowly."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def build_labelled(folder: Path, labels: Labels, *, samples: int = 14, seed: int = 0, **options: Any) -> Path:
    """Build a set with splits train, val and test from drawn scenes of several sizes; every fourth image is a PNG."""
    (folder / "source").mkdir(parents=True)
    pairs = []
    for number in range(samples):
        image, mask = draw_scene(labels, 60 + 7 * (number % 3), 90 - 11 * (number % 4), seed + number)
        paths = (
            folder / "source" / f"{number}.{'png' if number % 4 == 0 else 'jpg'}",
            folder / "source" / f"{number}m.png",
        )
        Image.fromarray(image).save(paths[0])
        indexed_mask(mask, labels).save(paths[1])
        stamps = [FileStamp.of(path.stat()) for path in paths]
        pairs.append(
            Pair(
                name=f"scene_{number:03d}",
                image=str(paths[0]),
                mask=str(paths[1]),
                image_stamp=stamps[0],
                mask_stamp=stamps[1],
            )
        )
    source = Source(
        layout="folders", reason="drawn", folder=folder / "source", pairs=tuple(pairs), lists={}, labels=labels
    )
    out = folder / "set"
    defaults: dict[str, Any] = {"storage": "source", "size": None, "quality": None, "val_fraction": None}
    defaults |= {"split": "random", "fractions": (0.6, 0.2, 0.2), "seed": 0, "samples_per_shard": 8}
    build(source, out, options_from(**(defaults | options)), workers=1)
    return out
