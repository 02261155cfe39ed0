"""Painting an animal: its fur, pattern and shading, and how much of each pixel it covers, exactly."""

from __future__ import annotations

import cv2
import numpy as np

from shards.sources.synthetic.animal import Animal
from shards.sources.synthetic.breeds import Breed
from shards.sources.synthetic.drawing import Field, Points, Rng, TextureBank, box, draw_lines, fill

COARSE = 4  # shading is soft and is drawn this many times coarser


def paint(
    animal: Animal, shape: tuple[int, int], bank: TextureBank, rng: Rng, *, scale: float, origin: Points
) -> tuple[Field, Field]:
    """Return an animal's colours, float32 (H, W, 3), 0..255, and how much of each pixel it covers, (H, W), 0..1.

    Units * ``scale`` + ``origin`` are pixels of an image of ``shape`` = (H, W).
    """
    breed = animal.breed
    canvas: Field = np.empty((*shape, 4), dtype=np.uint8)  # red, green, blue, weight of the pattern
    everything = box(-2, -2, shape[1] + 2, shape[0] + 2)
    fill(canvas, everything, breed.coat, 0)
    cover = np.zeros(shape, dtype=np.uint8)
    shade = np.full((shape[0] // COARSE + 1, shape[1] // COARSE + 1), 128, dtype=np.uint8)
    for part in animal.parts:
        points, weight = part.points * scale + origin, 255 * part.pattern
        if part.kind == "soft":  # its edge is blurred
            stencil, blur = np.zeros(shape, dtype=np.uint8), int(np.ptp(points, axis=0).min() * 0.1) + 1
            fill(stencil, points, (255,))
            share = cv2.blur(stencil, (blur, blur)) / np.float32(255)
            fill(over := np.empty_like(canvas), everything, part.colour, weight)
            canvas = cv2.blendLinear(over, canvas, share, 1 - share)
        elif part.kind == "line":
            draw_lines(canvas, [points] if scale >= 25 else [], part.colour, scale / 100)
        else:
            fill(canvas, points, part.colour, weight)
            fill(cover, points, (255,))
        if part.kind == "volume":  # dark at its lower right, bright towards its upper left; blurred later
            centre, extent = points.mean(axis=0), np.ptp(points, axis=0)
            for size, shift, value in ((1, 0, 78), (0.86, 0.05, 128), (0.6, 0.1, 158)):
                fill(shade, (centre + (points - centre) * size - shift * extent) / COARSE, (value,))
    colour, weights = canvas[:, :, :3].astype(np.float32), canvas[:, :, 3] / np.float32(255)
    if breed.pattern not in ("solid", "points"):
        marks = _coat_marks(breed, shape, bank, rng, scale=scale, y0=origin[1]) * weights
        colour += np.subtract(breed.mark, colour, dtype=np.float32) * marks[:, :, None]
        if breed.second_mark:
            marks *= bank.cut("cloud", shape, rng, 2) > 0.2
            colour += np.subtract(breed.second_mark, colour, dtype=np.float32) * marks[:, :, None]
    light = cv2.resize(cv2.GaussianBlur(shade, (0, 0), scale * 0.16 / COARSE), shape[::-1]) / np.float32(255)
    light += bank.cut("fur", shape, rng, scale / 60) * (0.035 + 0.05 * weights) + 0.5
    return colour * light[:, :, None], cover.astype(np.float32) / 255


def _coat_marks(breed: Breed, shape: tuple[int, int], bank: TextureBank, rng: Rng, *, scale: float, y0: float) -> Field:
    """Return how strongly each pixel has the marking colour, float32 (H, W), 0..1."""
    y, x = np.indices(shape, dtype=np.float32, sparse=True)
    if breed.pattern in ("tabby", "brindle"):
        period, strength = (0.42, 0.8) if breed.pattern == "tabby" else (0.3, 0.65)
        waves = (x + rng.uniform(-0.5, 0.5) * y) * (2 * np.pi / period / scale)
        values, low, high = np.sin(waves + 1.1 * bank.cut("cells", shape, rng, scale / 27)), 0.1, 0.6
    elif breed.pattern == "spots":
        values, low, high, strength = bank.cut("cells", shape, rng, scale / (44 if breed.is_cat else 50)), 0.75, 0.95, 1
    elif breed.pattern == "patches":
        values, low, high, strength = bank.cut("cloud", shape, rng, scale / 30), 0.25, 0.4, 1
    else:  # a saddle
        edge = 0.25 * bank.cut("cloud", shape, rng)
        values, low, high, strength = 1.25 - np.abs((y - float(y0)) / scale - 0.7) + edge, 0.45, 0.9, 0.9
    return np.asarray(np.clip((values - low) / (high - low), 0, 1) * strength)
