"""Small sets of any number of classes, of odd sizes, with ignored pixels; made from values or from colours."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from shards.build.build_set import build
from shards.build.options import PackOptions
from shards.format.labels import LabelClass, Labels

SIZES = [(61, 47), (40, 90), (33, 33), (75, 52), (48, 64), (90, 41), (37, 38)]


def labels_of(classes: int, *, rgb: bool) -> Labels:
    """Values and colours in an order of their own, so that none is the index of its class."""
    numbers = [(5 * index + 3) % 254 for index in range(classes)]
    colours = [f"#{number:02x}{255 - number:02x}10" for number in numbers]
    return Labels(
        classes=tuple(
            LabelClass(
                name=f"class {index}",
                color=f"#{index + 1:06x}",
                values=() if rgb else (number,),
                source_colors=(colour,) if rgb else (),
            )
            for index, (number, colour) in enumerate(zip(numbers, colours, strict=True))
        ),
        ignore=() if rgb else (255,),
        ignore_colors=("#ffffff",) if rgb else (),
    )


def make_class_set(folder: Path, *, classes: int, rgb: bool = False) -> tuple[Path, Path]:
    """Write smooth images and blotchy masks, a tenth of which is ignored; return the source and its shard set."""
    rng, source = np.random.default_rng(classes), folder / "source"
    images, masks = source / "images", source / "annotations" / "trimaps"
    images.mkdir(parents=True)
    masks.mkdir(parents=True)
    labels = labels_of(classes, rgb=rgb)
    for number, (height, width) in enumerate(SIZES):
        pixels = cv2.resize(rng.integers(0, 256, (5, 4, 3), dtype=np.uint8), (width, height))
        indices = cv2.resize(
            rng.integers(0, classes, (9, 8), dtype=np.uint8), (width, height), interpolation=cv2.INTER_NEAREST
        )
        ignored = cv2.resize(rng.random((7, 9)), (width, height)) < 0.2
        if rgb:
            values = np.where(ignored[..., None], 255, labels.source_palette[indices]).astype(np.uint8)
        else:
            values = np.where(ignored, 255, labels.source_values[indices]).astype(np.uint8)
        # PNG pixels under the name of a JPEG are kept, losslessly
        Image.fromarray(pixels).save(images / f"s_{number}.jpg", "PNG" if number % 3 else "JPEG", quality=95)
        Image.fromarray(values).save(masks / f"s_{number}.png")
    (source / "annotations" / "trainval.txt").write_text("".join(f"s_{number}\n" for number in range(len(SIZES))))
    options = PackOptions(labels=labels, split="random", fractions=(1.0, 0.0, 0.0), samples_per_shard=3)
    build(source, folder / "set", options, workers=1)
    return source, folder / "set"
