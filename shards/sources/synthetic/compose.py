"""One image with its mask: animal and scene put together, lit, and photographed."""

from __future__ import annotations

from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from shards.sources.synthetic.animal import Animal, make_animal
from shards.sources.synthetic.breeds import Breed
from shards.sources.synthetic.drawing import Canvas, Field, Points, Rng, TextureBank
from shards.sources.synthetic.paint import paint
from shards.sources.synthetic.scene import draw_scene, draw_thing

Mask: TypeAlias = npt.NDArray[np.bool_]


def draw_image(breed: Breed, bank: TextureBank, rng: Rng) -> tuple[Canvas, Mask]:
    """Draw one animal of a breed in a random scene; return image, uint8 (H, W, 3), and exact mask, bool (H, W)."""
    longer = 500 if rng.random() < 0.4 else int(rng.integers(240, 501))
    ratio = rng.choice((0.75, 0.6667, 0.8, 1.0), p=(0.45, 0.25, 0.2, 0.1)) * rng.uniform(0.97, 1.0)
    shape = longer, max(180, round(longer * ratio))
    shape = shape[::-1] if rng.random() < 0.6 else shape
    animal = make_animal(breed, rng)
    scale, origin, (left, top, right, bottom) = _place(animal, np.array(shape[::-1]), rng)
    scene = draw_scene(shape, shape[0] * 0.95 if animal.close_up else bottom, bank, rng)
    if not animal.close_up:  # its shadow
        y, x = np.ogrid[: shape[0], : shape[1]]
        depth, offset = (y - bottom) / (0.16 * (right - left)), (x - (left + right) / 2) / (0.6 * (right - left))
        shadow = np.exp(-2 * depth**2, dtype=np.float32) * np.exp(-2 * offset**2, dtype=np.float32)
        scene *= (1 - 0.5 * shadow)[:, :, None]
    colour, cover = paint(animal, shape, bank, rng, scale=scale, origin=origin)
    scene = cv2.blendLinear(colour, scene, cover, 1 - cover)
    inside = cover >= 0.5
    if not animal.close_up and rng.random() < 0.16:  # something hides a part of the feet
        front = np.zeros((*shape, 4), dtype=np.uint8)
        reach = 0.22 * min(right - left, bottom - top)
        draw_thing(front, rng.uniform(left, right), min(bottom, shape[0]) + 0.3 * reach, reach, rng)
        cover = front[:, :, 3] / np.float32(255)
        scene = cv2.blendLinear(front[:, :, :3].astype(np.float32), scene, cover, 1 - cover)
        inside &= cover < 0.5
    return _photograph(scene, bank, rng), inside


def _place(animal: Animal, size: Points, rng: Rng) -> tuple[float, Points, list[float]]:
    """Place an animal in an image of ``size`` (width, height): its scale, its origin, its box (x0, y0, x1, y1)."""
    points = np.concatenate([part.points for part in animal.parts])
    low, high = points.min(axis=0), points.max(axis=0)
    if animal.close_up:  # a close-up: the image's lower edge cuts the shoulders
        scale = (size * rng.uniform((0.5, 0.55), (0.85, 0.8)) / (2.4, 2.8)).min()
        x = size[0] * rng.uniform(0.38, 0.62) - scale * (high - low)[0] / 2
        y = max(size[1] * rng.uniform(0.0, 0.16), size[1] - scale * ((high - low)[1] - 0.3))
    else:
        scale = (size * rng.uniform(0.62, 0.97) / (high - low)).min()
        room = size - scale * (high - low)
        slack = 0.12 * (size - room)[0] if rng.random() < 0.15 else 0.0  # now and then cut by an edge
        x, y = rng.uniform(min(-slack, 0), room[0] + slack), room[1] * rng.uniform(0.45, 0.97)
    origin = np.array([x, y]) - scale * low
    return float(scale), origin, np.concatenate([low * scale + origin, high * scale + origin]).tolist()


def _photograph(scene: Field, bank: TextureBank, rng: Rng) -> Canvas:
    """Light from one side, white balance, exposure, a little blur, sensor noise; float (H, W, 3) to uint8."""
    height, width = scene.shape[:2]
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    light = 1 + rng.normal(0, 0.13) * y + rng.normal(0, 0.13) * x - rng.uniform(0, 0.12) * (x * x + y * y)
    white = rng.normal(1, 0.05, 3) * np.exp(rng.normal(0.02, 0.14))
    mix = np.full((3, 3), 1 / 3) if rng.random() < 0.06 else np.eye(3)  # black and white, or tinted
    lit = np.clip(cv2.transform(scene, white[:, None] * mix) * light.astype(np.float32)[:, :, None], 0, 255)
    lit = cv2.GaussianBlur(lit, (0, 0), rng.choice((0.1, 0.4, 0.7), p=(0.4, 0.4, 0.2)))  # 0.1: none
    lit += bank.cut("grain", (height, width), rng)[:, :, None] * np.float32(rng.uniform(1, 6))
    return np.asarray(np.clip(lit, 0, 255), dtype=np.uint8)
