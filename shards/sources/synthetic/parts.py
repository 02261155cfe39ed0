"""One painted part of a made-up animal: its outline, its colour, and how much of the coat's pattern it shows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from shards.sources.synthetic.breeds import Breed, Colour
from shards.sources.synthetic.outlines import Points, rotate, ruffle


@dataclass(frozen=True)
class Part:
    """An outline to be filled.

    Attributes:
        points: the closed outline, shape (n, 2).
        colour: what it is filled with.
        pattern: how strongly the coat's pattern shows on it, 0 (eyes, nose, paws) .. 1.
        round: whether it is shaded as a volume of its own.
        blend: whether its edge is soft (a light chest); such a part lies within others.
    """

    points: Points
    colour: Colour
    pattern: float = 0.0
    round: bool = False
    blend: bool = False


def fur(
    points: Points, colour: Colour, breed: Breed, rng: np.random.Generator, *, pattern: float = 1.0, blend: bool = False
) -> Part:
    """Return a furry part: its outline ruffled as the breed's coat is."""
    outline = ruffle(points, 0.015 + 0.045 * breed.fluff, rng)
    return Part(outline, colour, pattern, round=not blend, blend=blend)


def place(
    part: Part, *, x: float = 0.0, y: float = 0.0, scale: float = 1.0, turn: float = 0.0, stretch: float = 1.0
) -> Part:
    """Return the part stretched in x (negative: mirrored), scaled, turned about (0, 0) and moved to (x, y)."""
    return replace(part, points=rotate(part.points * (scale * stretch, scale), turn) + np.array([x, y]))


def darker(colour: Colour, factor: float) -> Colour:
    """Return the colour times ``factor``."""
    r, g, b = (int(value * factor) for value in colour)
    return r, g, b
