"""Batches of every kind against a computation in Python's integers and fractions, which calls nothing under test.

Fits, sizes (odd, H != W, one pixel), augmentations, storages, engines, numbers of classes and ignored pixels are drawn
by hypothesis. Masks must be equal. Images may differ as :mod:`test_loader_tensors` says, and padding not at all.
"""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline import Augmentation, Loader

Size = tuple[int, int]

SAMPLES = 4
PADDING, IGNORED = (124, 116, 104), 255
MOST, EDGE = 3, 48  # levels: inside, and at the outermost pixels where DALI repeats those of the image
AUGMENTATIONS = (
    None,
    Augmentation.preset("train"),
    Augmentation.preset("strong"),
    Augmentation(area=None, flip=1.0, brightness=0, contrast=0, saturation=0),
    Augmentation(area=(0.01, 1.0), ratio=(1.0, 1.0), brightness=0, contrast=0, saturation=0),
)
SCALES = ((1.0, 1.0), (0.5, 2.0), (0.1, 0.3), (2.0, 6.0))

sides = st.integers(1, 9) | st.integers(1, 48)
sizes = st.tuples(sides, sides)


@dataclass(frozen=True)
class Case:
    """What is loaded, and how."""

    storage: str
    classes: int
    images: tuple[Size, ...]  # all the same where the storage has one size
    size: Size | None
    fit: str
    crop_scale: tuple[float, float] | None
    augment: Augmentation | None
    mask: str
    seed: int
    epoch: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    storage = draw(st.sampled_from(["source", "jpeg", "raw"]))
    images = draw(st.tuples(*[sizes] * SAMPLES)) if storage == "source" else (draw(sizes),) * SAMPLES
    return Case(
        storage=storage,
        classes=draw(st.sampled_from([1, 2, 3, 17, 150, 255])),
        images=images,
        size=draw(sizes if storage == "source" else st.none() | sizes),
        fit=draw(st.sampled_from(["stretch", "cover", "contain"])),
        crop_scale=draw(st.none() | st.sampled_from(SCALES) | st.floats(0.05, 8).map(lambda scale: (scale, scale))),
        augment=draw(st.sampled_from(AUGMENTATIONS)),
        mask=draw(st.sampled_from(["onehot", "index"])),
        seed=draw(st.integers(0, 2**40)),
        epoch=draw(st.integers(0, 3)),
    )


@pytest.mark.parametrize(("engine", "short", "long"), [("torch", 50, 1000), ("dali", 20, 300), ("processes", 3, 30)])
def test_batches_are_what_the_contract_says(
    engine: str,
    short: int,
    long: int,
    campaign: Callable[[int, int], int],
    writer: Any,
    labels_of: Any,
    with_engine: Any,
) -> None:
    @settings(max_examples=campaign(short, long))
    @given(case=cases())
    def check(case: Case) -> None:
        with tempfile.TemporaryDirectory() as folder:
            pairs, stored = draw_samples(case)
            labels = labels_of(case.classes)
            size = None if case.storage == "source" else case.images[0]
            writer(Path(folder), pairs, storage=case.storage, size=size, labels=labels, samples_per_shard=3)
            options = {name: getattr(case, name) for name in ("size", "fit", "crop_scale", "augment", "mask")}
            options["engine"] = engine
            with Loader(folder, batch_size=3, device="cpu", seed=case.seed, **with_engine(options)) as loader:
                loader.set_epoch(case.epoch)
                for batch in loader:
                    images, masks = batch.image.permute(0, 2, 3, 1).numpy(), batch.mask.numpy()
                    for place, index in enumerate(batch.index.tolist()):
                        expected = expect(case, index, *stored[index])
                        check_mask(masks[place], expected, case)
                        check_image(images[place], expected, edge=EDGE if engine == "dali" else MOST)

    check()


def draw_samples(case: Case) -> tuple[list[StoredSample], list[tuple[np.ndarray, np.ndarray]]]:
    """Samples as they are stored, and what they hold: image and mask, by Pillow and NumPy."""
    random = np.random.default_rng(case.seed)
    pairs, stored = [], []
    for number, (height, width) in enumerate(case.images):
        coarse = random.integers(0, 256, (2 + height // 16, 2 + width // 16, 3), dtype=np.uint8)
        image = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
        mask = random.integers(0, case.classes, (height, width), dtype=np.uint8)
        mask[random.random(mask.shape) < 0.2] = IGNORED
        kind = "npy" if case.storage == "raw" else "png" if case.storage == "source" and number % 2 else "jpg"
        if kind == "npy":
            pairs.append(StoredSample(saved(image), saved(mask), height, width, kind))
        else:
            data = encoded(image, "PNG" if kind == "png" else "JPEG")
            pairs.append(StoredSample(data, encoded(mask, "PNG"), height, width, kind))
            image = np.asarray(Image.open(io.BytesIO(data)))
        stored.append((image, mask))
    return pairs, stored


@dataclass(frozen=True)
class StoredSample:
    """What the set's writer asks for."""

    image: bytes
    mask: bytes
    height: int
    width: int
    format: str


def encoded(values: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind)
    return buffer.getvalue()


def saved(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


@dataclass
class Expected:
    """One sample as it should be delivered.

    Attributes:
        index: the mask, uint8 (H, W).
        image: uint8 (H, W, 3).
        place: top, left, height, width of what is not padding.
        tolerance: how many levels of the image one level of the resized image is worth.
    """

    index: np.ndarray
    image: np.ndarray
    place: tuple[int, int, int, int]
    tolerance: float = field(default=1.0)


def expect(case: Case, sample: int, image: np.ndarray, mask: np.ndarray) -> Expected:
    """Crop, resize, flip, colour, place."""
    height, width = mask.shape
    out_height, out_width = case.size or (height, width)
    random = [uniform(case.seed, case.epoch, decision, sample) for decision in range(8)]
    placed_height, placed_width = out_height, out_width
    if case.crop_scale is not None:
        scale, box = scaled_box(case, random, height, width, (out_height, out_width))
        top, left, box_height, box_width = box
        # A side that should show more than there is keeps its scale, and is padded.
        if half_up(out_height / scale) > height:
            placed_height = min(out_height, max(1, half_up(scale * height)))
        if half_up(out_width / scale) > width:
            placed_width = min(out_width, max(1, half_up(scale * width)))
    else:
        top, left, box_height, box_width = expected_box(case, random, height, width, (out_height, out_width))
    if case.crop_scale is None and case.fit == "contain":
        scale = min(Fraction(out_height, box_height), Fraction(out_width, box_width))
        placed_height, placed_width = (max(1, half_up(scale * side)) for side in (box_height, box_width))
    rows = [top + math.floor((i + Fraction(1, 2)) * box_height / placed_height) for i in range(placed_height)]
    columns = [left + math.floor((i + Fraction(1, 2)) * box_width / placed_width) for i in range(placed_width)]
    index = mask[np.ix_(rows, columns)]
    region = Image.fromarray(image[top : top + box_height, left : left + box_width])
    resized = np.asarray(region.resize((placed_width, placed_height), Image.Resampling.BILINEAR))
    if case.augment is not None and random[4] < case.augment.flip:
        index, resized = index[:, ::-1], resized[:, ::-1]
    coloured, tolerance = expected_colours(case.augment, random, resized.astype(float))
    row, column = (out_height - placed_height) // 2, (out_width - placed_width) // 2
    inside = slice(row, row + placed_height), slice(column, column + placed_width)
    whole_index = np.full((out_height, out_width), IGNORED, np.uint8)
    whole_image = np.full((out_height, out_width, 3), PADDING, float)
    whole_index[inside], whole_image[inside] = index, coloured
    return Expected(whole_index, whole_image, (row, column, placed_height, placed_width), tolerance)


def expected_box(case: Case, random: list[float], height: int, width: int, size: Size) -> tuple[int, int, int, int]:
    """The crop: all of the image, or with ``cover`` the largest box of the output's shape; of which a part is taken."""
    base_height, base_width = height, width
    if case.fit == "cover":
        scale = min(Fraction(height, size[0]), Fraction(width, size[1]))
        base_height, base_width = (max(1, half_up(scale * side)) for side in size)
    if case.augment is None:
        return (height - base_height) // 2, (width - base_width) // 2, base_height, base_width
    if case.augment.area is not None:
        least, most = case.augment.area
        low, high = (math.log(bound) for bound in case.augment.ratio)
        area, ratio = least + (most - least) * random[0], math.exp(low + (high - low) * random[1])
        base_height = min(height, max(1, half_up(math.sqrt(area / ratio) * base_height)))
        base_width = min(width, max(1, half_up(math.sqrt(area * ratio) * base_width)))
    top, left = (
        math.floor(number * (side - base + 1))
        for number, side, base in ((random[2], height, base_height), (random[3], width, base_width))
    )
    return top, left, base_height, base_width


def scaled_box(
    case: Case, random: list[float], height: int, width: int, size: Size
) -> tuple[float, tuple[int, int, int, int]]:
    """The scale, and the crop that shows as many of the image's pixels at it as the output holds."""
    assert case.crop_scale is not None
    least, most = case.crop_scale
    down, across = random[2:4]
    if case.augment is None:
        scale = 1.0 if least <= 1 <= most else math.sqrt(least * most)
        down = across = 0.5
    else:
        scale = least + (most - least) * random[0]
    box_height, box_width = (
        min(side, max(1, half_up(wanted / scale))) for side, wanted in zip((height, width), size, strict=True)
    )
    top, left = math.floor(down * (height - box_height + 1)), math.floor(across * (width - box_width + 1))
    return scale, (top, left, box_height, box_width)


def expected_colours(augment: Augmentation | None, random: list[float], pixels: np.ndarray) -> tuple[np.ndarray, float]:
    """Saturation, contrast, brightness, one after the other; and by how much a difference may grow in all three."""
    if augment is None:
        return pixels, 1.0
    strengths = (augment.brightness, augment.contrast, augment.saturation)
    brightness, contrast, saturation = (
        1 + strength * (2 * number - 1) for strength, number in zip(strengths, random[5:], strict=True)
    )
    grey = (pixels @ [0.299, 0.587, 0.114])[..., None]
    pixels = grey + saturation * (pixels - grey)
    pixels = brightness * (128 + contrast * (pixels - 128))
    growth = brightness * contrast * (saturation + 2 * abs(1 - saturation))
    return np.clip(pixels, 0, 255), max(1.0, growth)


def uniform(seed: int, epoch: int, decision: int, sample: int) -> float:
    """SplitMix64: a key of (seed, epoch, 2, decision), then the number of the sample."""
    golden, most = 0x9E3779B97F4A7C15, 2**64

    def finalise(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % most
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % most
        return z ^ (z >> 31)

    key = 0
    for part in (seed, epoch, 2, decision):
        key = finalise((key + golden + part) * golden % most)
    return (finalise((key + (sample + 1) * golden) % most) >> 11) / 2**53


def half_up(value: Fraction | float) -> int:
    return math.floor(value + Fraction(1, 2))


def check_mask(found: np.ndarray, expected: Expected, case: Case) -> None:
    wanted = expected.index
    if case.mask == "onehot":
        planes = np.zeros((case.classes, *wanted.shape), np.uint8)
        for row, column in np.ndindex(wanted.shape):
            if wanted[row, column] != IGNORED:
                planes[wanted[row, column], row, column] = 1
        wanted = planes
    assert found.dtype == np.uint8
    assert np.array_equal(found, wanted)


def check_image(found: np.ndarray, expected: Expected, *, edge: float) -> None:
    difference = np.abs(found.astype(float) - expected.image)
    top, left, height, width = expected.place
    inside = difference[top : top + height, left : left + width]
    assert difference.sum() == pytest.approx(inside.sum()), "padding"
    assert inside.max() <= 1 + edge * expected.tolerance
    inner = inside[1:-1, 1:-1]
    assert inner.size == 0 or inner.max() <= 1 + MOST * expected.tolerance
