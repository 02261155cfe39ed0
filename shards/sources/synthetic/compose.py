"""One picture of the made-up dataset with its trimap: animal and scene put together, lit, and photographed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from shards.format.layout import MASK_VALUES
from shards.sources.synthetic.animal import Animal, make_animal
from shards.sources.synthetic.breeds import Breed
from shards.sources.synthetic.noise import NoiseBank
from shards.sources.synthetic.paint import Placement, paint
from shards.sources.synthetic.scene import draw_scene, draw_thing_in_front

Rng = np.random.Generator
Mask = npt.NDArray[np.bool_]
LONGEST, SHORTEST = 500, 180  # pixels, of a picture's side
BAND = 0.011  # half the width of the border, as a part of the longer side; the real one's is about that

ANIMAL, BACKGROUND, BORDER = MASK_VALUES


@dataclass(frozen=True)
class Picture:
    """A picture and its trimap.

    Attributes:
        image: uint8 (H, W, 3).
        trimap: uint8 (H, W), 1 animal, 2 background, 3 border.
    """

    image: npt.NDArray[np.uint8]
    trimap: npt.NDArray[np.uint8]


def draw_picture(breed: Breed, bank: NoiseBank, rng: Rng) -> Picture:
    """Draw one animal of a breed in a random scene."""
    size = _random_size(rng)
    animal = make_animal(breed, rng)
    where, box = _place(animal, size, rng)
    ground = size[1] * 0.95 if animal.ground is None else where.pixels(np.array([[0.0, animal.ground]]))[0, 1]
    scene = draw_scene(size, float(ground), bank, rng)
    if animal.ground is not None:
        scene *= _shadow(size, box, float(ground))[:, :, None]
    painted = paint(animal, breed, where=where, size=size, bank=bank, rng=rng)
    behind = scene[painted.window]
    behind += (painted.colour - behind) * painted.alpha[:, :, None]
    inside = np.zeros(scene.shape[:2], dtype=bool)
    inside[painted.window] = painted.alpha >= 0.5
    front = draw_thing_in_front(size, box, rng) if animal.ground is not None else None
    if front is not None:
        cover = np.asarray(front, dtype=np.float32)
        hidden = cover[:, :, 3] > 127
        scene[hidden] = cover[hidden][:, :3]
        inside = inside & ~hidden
    return Picture(image=_photograph(scene, bank, rng), trimap=trimap_of(inside))


def trimap_of(inside: Mask) -> npt.NDArray[np.uint8]:
    """Return the trimap of an animal's exact mask: its outline becomes a band, as wide inwards as outwards.

    Beyond the picture's edge the animal is taken to go on, so that an edge that cuts it gets no border.

    Args:
        inside: bool (H, W), which pixels are the animal's.

    Returns:
        uint8 (H, W), values 1, 2, 3.
    """
    reach = max(2, round(BAND * max(inside.shape)))
    grown, kept = inside, ~inside
    for step in range(reach):  # crosses and squares in turn grow an octagon, nearly a disc
        grown, kept = (_grow(mask, square=step % 2 == 1) for mask in (grown, kept))
    trimap = np.full(inside.shape, BACKGROUND, dtype=np.uint8)
    trimap[inside] = ANIMAL
    trimap[grown & kept] = BORDER
    return trimap


def _grow(mask: Mask, *, square: bool) -> Mask:
    """Dilate by one pixel: by a 3 x 3 square, or by its cross."""
    wide = mask.copy()
    wide[:, 1:] |= mask[:, :-1]
    wide[:, :-1] |= mask[:, 1:]
    across = wide if square else mask
    tall = wide.copy()
    tall[1:] |= across[:-1]
    tall[:-1] |= across[1:]
    return tall


def _random_size(rng: Rng) -> tuple[int, int]:
    longer = LONGEST if rng.random() < 0.4 else int(rng.integers(240, LONGEST + 1))
    ratio = float(rng.choice((0.75, 0.6667, 0.8, 1.0), p=(0.45, 0.25, 0.2, 0.1))) * rng.uniform(0.97, 1.0)
    shorter = max(SHORTEST, round(longer * ratio))
    return (longer, shorter) if rng.random() < 0.6 else (shorter, longer)


def _place(animal: Animal, size: tuple[int, int], rng: Rng) -> tuple[Placement, tuple[float, float, float, float]]:
    """Decide where the animal stands and how large it is; return that, and its box in pixels."""
    points = np.concatenate([part.points for part in animal.parts])
    low, high = points.min(axis=0), points.max(axis=0)
    span = high - low
    if animal.ground is None:  # a close-up: the picture's lower edge cuts the shoulders
        scale = min(size[0] * rng.uniform(0.5, 0.85) / 2.4, size[1] * rng.uniform(0.55, 0.8) / 2.8)
        top = size[1] * rng.uniform(0.0, 0.16)
        x = size[0] * rng.uniform(0.38, 0.62) - scale * (low[0] + high[0]) / 2
        y = max(top, size[1] - scale * (span[1] - 0.3)) - scale * low[1]
    else:
        scale = float((np.array(size) * rng.uniform(0.62, 0.97) / span).min())
        room = np.array(size) - scale * span
        slack = 0.12 * scale * span[0] if rng.random() < 0.15 else 0.0  # now and then cut by an edge
        x = rng.uniform(min(-slack, 0), room[0] + slack) - scale * low[0]
        y = room[1] * rng.uniform(0.45, 0.97) - scale * low[1]
    where = Placement(scale=float(scale), x=float(x), y=float(y))
    (left, top), (right, bottom) = where.pixels(np.stack([low, high]))
    return where, (float(left), float(top), float(right), float(bottom))


def _shadow(size: tuple[int, int], box: tuple[float, float, float, float], ground: float) -> npt.NDArray[np.float32]:
    """Return what is left of the light around the animal's feet, float32 (H, W), 0.5..1."""
    left, _, right, _ = box
    x = (np.arange(size[0], dtype=np.float32) - (left + right) / 2) / (0.6 * (right - left))
    y = (np.arange(size[1], dtype=np.float32) - ground) / (0.16 * (right - left))
    return np.asarray(1 - 0.5 * np.exp(-2 * y * y)[:, None] * np.exp(-2 * x * x), dtype=np.float32)


def _photograph(scene: npt.NDArray[np.float32], bank: NoiseBank, rng: Rng) -> npt.NDArray[np.uint8]:
    """Light from one side, white balance, exposure, a little blur, sensor noise; float (H, W, 3) to uint8."""
    height, width = scene.shape[:2]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)
    slope = rng.normal(0, 0.13, 2).astype(np.float32)
    light = 1 + slope[0] * x + slope[1] * y - np.float32(rng.uniform(0, 0.12)) * (x * x + y * y)
    white = (rng.normal(1, 0.05, 3) * np.exp(rng.normal(0.02, 0.14))).astype(np.float32)
    if rng.random() < 0.06:
        scene = np.repeat(scene.mean(axis=2, keepdims=True), 3, axis=2)  # black and white, or tinted
    lit = scene * light[:, :, None]
    lit *= white
    image = Image.fromarray(np.clip(lit, 0, 255, out=lit).astype(np.uint8))
    blur = float(rng.choice((0.0, 0.5, 1.0), p=(0.4, 0.4, 0.2)))
    if blur:
        image = image.filter(ImageFilter.BoxBlur(blur))
    noise = bank.cut("grain", (height, width), rng) * np.float32(rng.uniform(1, 6))
    taken = np.asarray(image, dtype=np.float32) + noise[:, :, None]
    return np.clip(taken, 0, 255, out=taken).astype(np.uint8)
