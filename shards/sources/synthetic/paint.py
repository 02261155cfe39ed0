"""Painting a made-up animal: a mask of its outline, exact, and its fur, pattern and shading."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from shards.sources.synthetic.animal import Animal
from shards.sources.synthetic.breeds import Breed
from shards.sources.synthetic.noise import Field, NoiseBank
from shards.sources.synthetic.outlines import Points
from shards.sources.synthetic.parts import Part, darker

FINE = 2  # outlines are drawn this many times finer than the picture, for smooth edges
COARSE = 4  # shading is soft and is drawn this many times coarser

Rng = np.random.Generator


@dataclass(frozen=True)
class Placement:
    """Where in a picture an animal stands: pixels = units * ``scale`` + (x, y)."""

    scale: float
    x: float
    y: float

    def pixels(self, points: Points) -> Points:
        """Return outline points in pixels."""
        return points * self.scale + (self.x, self.y)


@dataclass(frozen=True)
class Painted:
    """An animal as painted, in the window of the picture that it fills.

    Attributes:
        window: the rows and the columns of the picture.
        colour: float32 (h, w, 3), 0..255; meaningful where ``alpha`` is not 0.
        alpha: float32 (h, w), 0..1, how much of each pixel the animal covers.
    """

    window: tuple[slice, slice]
    colour: npt.NDArray[np.float32]
    alpha: Field


def paint(
    animal: Animal, breed: Breed, *, where: Placement, size: tuple[int, int], bank: NoiseBank, rng: Rng
) -> Painted:
    """Paint an animal for a picture of ``size`` = (width, height)."""
    rows, columns = _window(animal, where, size)
    where = Placement(scale=where.scale, x=where.x - columns.start, y=where.y - rows.start)
    size = width, height = columns.stop - columns.start, rows.stop - rows.start
    fine = (width * FINE, height * FINE)
    flat = Image.new("RGB", fine, breed.coat)
    outline, pattern = Image.new("L", fine), Image.new("L", fine)
    shade = Image.new("L", (width // COARSE + 1, height // COARSE + 1), 128)
    draw_flat, draw_outline, draw_pattern = (ImageDraw.Draw(layer) for layer in (flat, outline, pattern))
    light = ImageDraw.Draw(shade)
    for part in animal.parts:
        points = where.pixels(part.points)
        if part.blend:
            _paint_soft(flat, pattern, part, points * FINE)
            continue
        corners = _corners(points * FINE)
        draw_flat.polygon(corners, fill=part.colour)
        draw_outline.polygon(corners, fill=255)
        draw_pattern.polygon(corners, fill=round(255 * part.pattern))
        if part.round:
            _paint_shade(light, points / COARSE)
    colour = np.asarray(flat.reduce(FINE), dtype=np.float32)
    alpha = _share(outline)
    weight = _share(pattern)
    marks = coat_marks(breed, where, alpha.shape, bank, rng)
    if marks is not None:
        marks *= weight
        colour = _blend(colour, breed.mark, marks)
    if marks is not None and breed.second_mark:
        other = bank.cut("cloud", alpha.shape, rng, zoom=2)
        colour = _blend(colour, breed.second_mark, marks * (other > 0.2))
    soft = shade.filter(ImageFilter.GaussianBlur(where.scale * 0.16 / COARSE)).resize(size, Image.Resampling.BILINEAR)
    hair = bank.cut("fur", alpha.shape, rng, zoom=max(1.0, where.scale / 60)) * (
        np.float32(0.035) + np.float32(0.05) * weight
    )
    gain = np.asarray(soft, dtype=np.float32) / np.float32(255) + hair + np.float32(0.5)
    colour = _whiskered(colour, animal, where, size)
    colour *= gain[:, :, None]
    return Painted(window=(rows, columns), colour=colour, alpha=alpha)


def coat_marks(breed: Breed, where: Placement, shape: tuple[int, int], bank: NoiseBank, rng: Rng) -> Field | None:
    """Return how strongly each pixel has the marking colour, float32 (H, W), 0..1; None for a coat without pattern."""
    zoom = max(1.0, where.scale / 40)
    if breed.pattern in ("tabby", "brindle"):
        y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32) / where.scale
        lean = float(rng.uniform(-0.5, 0.5))
        waves = (x + lean * y) * (2 * np.pi / (0.42 if breed.pattern == "tabby" else 0.3))
        waves += bank.cut("cells", shape, rng, zoom=zoom * 1.5) * 1.1
        return _step(np.sin(waves), 0.1, 0.6) * (0.8 if breed.pattern == "tabby" else 0.65)
    if breed.pattern == "spots":
        return _step(bank.cut("cells", shape, rng, zoom=zoom * (0.9 if breed.is_cat else 0.8)), 0.75, 0.95)
    if breed.pattern == "patches":
        return _step(bank.cut("cloud", shape, rng, zoom=max(1.0, where.scale / 30)), 0.25, 0.4)
    if breed.pattern == "saddle":
        y = (np.arange(shape[0], dtype=np.float32)[:, None] - where.y) / where.scale
        return _step(1.25 - np.abs(y - 0.7) + 0.25 * bank.cut("cloud", shape, rng), 0.45, 0.9) * 0.9
    return None


def _window(animal: Animal, where: Placement, size: tuple[int, int]) -> tuple[slice, slice]:
    """Return the rows and columns that the animal can touch, at least two of each."""
    points = where.pixels(np.concatenate([part.points for part in animal.parts]))
    low = np.floor(points.min(axis=0)).astype(int) - 1
    high = np.ceil(points.max(axis=0)).astype(int) + 2
    left, top = (min(max(int(v), 0), limit - 2) for v, limit in zip(low, size, strict=True))
    right, bottom = (min(int(v), limit) for v, limit in zip(high, size, strict=True))
    return slice(top, max(bottom, top + 2)), slice(left, max(right, left + 2))


def _share(fine: Image.Image) -> Field:
    """Return a finely drawn mask in the picture's own pixels, float32 0..1."""
    return np.asarray(fine.reduce(FINE), dtype=np.float32) / np.float32(255)


def _paint_soft(flat: Image.Image, pattern: Image.Image, part: Part, points: Points) -> None:
    """Paint a part with a soft edge (a light chest, a dark mask) into its bounding box."""
    low = np.floor(points.min(axis=0)).astype(int)
    high = np.ceil(points.max(axis=0)).astype(int)
    blur = float((high - low).min()) * 0.1
    left, top = (int(v - 2 * blur) for v in low)
    right, bottom = (int(v + 2 * blur) + 1 for v in high)
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, flat.width), min(bottom, flat.height)
    if right - left < 2 or bottom - top < 2:
        return
    # Drawn at half of the fine scale: the blur hides it, and it costs a quarter.
    stencil = Image.new("L", ((right - left) // 2 + 1, (bottom - top) // 2 + 1))
    ImageDraw.Draw(stencil).polygon(_corners((points - (left, top)) / 2), fill=255)
    stencil = stencil.filter(ImageFilter.BoxBlur(blur / 2)).resize((right - left, bottom - top))
    flat.paste(part.colour, (left, top, right, bottom), stencil)
    pattern.paste(round(255 * part.pattern), (left, top, right, bottom), stencil)


def _paint_shade(light: ImageDraw.ImageDraw, points: Points) -> None:
    """Shade one volume: dark at its lower right, bright towards its upper left; blurred later."""
    centre = points.mean(axis=0)
    light.polygon(_corners(points), fill=78)
    light.polygon(_corners(centre + (points - centre) * 0.86 - 0.05 * np.ptp(points, axis=0)), fill=128)
    light.polygon(_corners(centre + (points - centre) * 0.6 - 0.1 * np.ptp(points, axis=0)), fill=158)


def _whiskered(
    colour: npt.NDArray[np.float32], animal: Animal, where: Placement, size: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """Draw the whiskers, where they lie over the animal (over the background they are too thin to see)."""
    if not animal.whiskers or where.scale < 25:
        return colour
    lines = Image.new("L", (size[0] * FINE, size[1] * FINE))
    brush = ImageDraw.Draw(lines)
    for line in animal.whiskers:
        brush.line(_corners(where.pixels(line.points) * FINE), fill=170, width=max(1, round(where.scale / 50)))
    return _blend(colour, darker(animal.whiskers[0].colour, 1.0), _share(lines))


def _blend(colour: npt.NDArray[np.float32], over: tuple[int, int, int], weight: Field) -> npt.NDArray[np.float32]:
    mixed = np.array(over, dtype=np.float32) - colour
    mixed *= weight[:, :, None]
    mixed += colour
    return mixed


def _step(values: npt.NDArray[np.float32], low: float, high: float) -> npt.NDArray[np.float32]:
    return np.asarray(np.clip((values - low) / (high - low), 0, 1), dtype=np.float32)


def _corners(points: Points) -> list[float]:
    """Return x, y, x, y, ...: what ImageDraw takes fastest."""
    flat: list[float] = points.ravel().tolist()
    return flat
