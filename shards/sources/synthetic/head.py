"""Heads of the made-up animals, seen from the front, centred on (0, 0), about two units wide."""

from __future__ import annotations

import numpy as np

from shards.sources.synthetic.breeds import Breed, Colour
from shards.sources.synthetic.outlines import blob, ellipse, limb
from shards.sources.synthetic.parts import Part, darker, fur

Rng = np.random.Generator
_INNER_EAR: Colour = (196, 146, 136)
_DARK: Colour = (24, 20, 20)
_TONGUE: Colour = (222, 112, 118)


def draw_head(breed: Breed, rng: Rng, *, asleep: bool) -> tuple[list[Part], list[Part]]:
    """Return the parts of a head, and its whiskers."""
    look = float(rng.uniform(-0.16, 0.16))  # the face turns a little to one side
    if breed.is_cat:
        return _cat(breed, rng, look, asleep=asleep), _whiskers(look, rng)
    return _dog(breed, rng, look, asleep=asleep), []


def _cat(breed: Breed, rng: Rng, look: float, *, asleep: bool) -> list[Part]:
    ear = breed.mark if breed.pattern == "points" else breed.coat
    parts = []
    for s in (-1, 1):
        lean = float(rng.normal(0, 0.06))
        tip = (s * (0.86 + lean), -1.28)
        parts.append(fur(blob((s * 0.22, -0.62), (s * 0.5, -0.95), tip, (s * 1.0, -0.8), (s * 0.97, -0.25)), ear,
                         breed, rng, pattern=0.3))  # fmt: skip
        parts.append(Part(blob((s * 0.42, -0.7), (s * 0.78 + s * lean, -1.1), (s * 0.84, -0.5)), _INNER_EAR))
    parts.append(fur(blob((0, -0.84), (-0.62, -0.7), (-1.0, -0.05), (-0.86, 0.42), (-0.35, 0.76), (0, 0.82),
                          (0.35, 0.76), (0.86, 0.42), (1.0, -0.05), (0.62, -0.7)), breed.coat, breed, rng))  # fmt: skip
    muzzle = {"coat": breed.coat, "light": breed.light, "mark": breed.mark}[breed.muzzle]
    if breed.muzzle == "mark":
        parts.append(Part(ellipse(look, 0.25, 0.55, 0.5), muzzle, 0.2, blend=True))
    else:
        parts.append(Part(blob((look, -0.1), (look - 0.5, 0.35), (look, 0.72), (look + 0.5, 0.35)), muzzle, blend=True))
    parts += [Part(ellipse(look + s * 0.2, 0.4, 0.26, 0.2), darker(muzzle, 1.0)) for s in (-1, 1)]
    for s in (-1, 1):
        parts += _eye(breed, look + s * 0.43, -0.1, s, asleep=asleep, slit=True, wide=float(rng.uniform(0.8, 1.1)))
    parts.append(Part(blob((look - 0.13, 0.18), (look + 0.13, 0.18), (look, 0.33)), breed.nose))
    parts += _mouth(look, 0.33, 0.22)
    return parts


def _dog(breed: Breed, rng: Rng, look: float, *, asleep: bool) -> list[Part]:
    ear = breed.coat if breed.pattern in ("solid", "brindle") else breed.mark
    hanging = breed.ears in ("floppy", "long")
    skull = fur(blob((0, -0.88), (-0.6, -0.75), (-0.88, -0.2), (-0.78, 0.35), (-0.45, 0.8), (0, 0.98), (0.45, 0.8),
                     (0.78, 0.35), (0.88, -0.2), (0.6, -0.75)), breed.coat, breed, rng)  # fmt: skip
    ears = [part for s in (-1, 1) for part in _dog_ear(breed, rng, s, darker(ear, 0.9))]
    parts = [skull, *ears] if hanging else [*ears, skull]
    muzzle = {"coat": breed.coat, "light": breed.light, "mark": breed.mark}[breed.muzzle]
    if breed.pattern == "patches" or rng.random() < 0.3:
        parts.append(
            Part(blob((look * 0.5, -0.8), (look - 0.17, 0.1), (look + 0.17, 0.1)), breed.light, 0.2, blend=True)
        )
    if rng.random() < 0.4 and not asleep:  # panting: the tongue hangs out below the muzzle
        parts.append(Part(limb((look, 0.75), (look + 0.04, 1.15), start=0.17, end=0.16), _TONGUE, round=True))
    parts.append(Part(ellipse(look, 0.5, 0.52, 0.44), muzzle, round=True))
    for s in (-1, 1):
        parts += _eye(breed, look + s * 0.38, -0.14, s, asleep=asleep, slit=False, wide=0.8)
    parts.append(Part(ellipse(look * 1.3, 0.26, 0.2, 0.15), breed.nose))
    parts.append(Part(ellipse(look * 1.3 - 0.06, 0.2, 0.06, 0.03), darker((150, 140, 140), 1.0)))
    parts += _mouth(look * 1.2, 0.42, 0.3)
    return parts


def _dog_ear(breed: Breed, rng: Rng, s: int, colour: Colour) -> list[Part]:
    swing = float(rng.normal(0, 0.07))
    if breed.ears == "pointed":
        outer = blob((s * 0.25, -0.7), (s * (0.6 + swing), -1.5), (s * 0.88, -0.75), (s * 0.85, -0.3))
        inner = blob((s * 0.42, -0.75), (s * (0.62 + swing), -1.28), (s * 0.76, -0.6))
        return [fur(outer, colour, breed, rng, pattern=0.2), Part(inner, darker(_INNER_EAR, 0.9))]
    if breed.ears == "folded":
        outer = blob(
            (s * 0.35, -0.8), (s * 0.7, -1.12), (s * (1.12 + swing), -0.62), (s * 0.98, -0.38), (s * 0.8, -0.5)
        )
        return [fur(outer, colour, breed, rng, pattern=0.2)]
    drop = 0.45 if breed.ears == "floppy" else 1.15
    outer = blob((s * 0.5, -0.78), (s * 0.95, -0.7), (s * (1.22 + swing), 0.1), (s * (1.15 + swing), drop),
                 (s * (0.85 + swing), drop + 0.1), (s * 0.74, 0.0))  # fmt: skip
    return [fur(outer, colour, breed, rng, pattern=0.2)]


def _eye(breed: Breed, x: float, y: float, s: int, *, asleep: bool, slit: bool, wide: float) -> list[Part]:
    if asleep:
        lid = limb((x - 0.2, y), (x, y + 0.09), (x + 0.2, y), start=0.035, end=0.03)
        return [Part(lid, darker(breed.mark, 0.5))]
    tilt = -0.25 * s if slit else 0.0
    size = 0.21 * wide
    pupil = ellipse(x, y, size * 0.36, size * 0.86) if slit else ellipse(x, y, size * 0.6, size * 0.62)
    return [
        Part(ellipse(x, y, size * 1.3, size * 1.08, turn=tilt), _DARK),
        Part(ellipse(x, y, size * 1.12, size * 0.92, turn=tilt), breed.eyes),
        Part(pupil, _DARK),
        Part(ellipse(x - 0.06, y - 0.07, 0.05, 0.05, n=12), (250, 250, 250)),
    ]


def _mouth(x: float, y: float, width: float) -> list[Part]:
    down = y + 0.14
    sides = [limb((x, y), (x, down), (x + s * width * 0.5, down + 0.1), (x + s * width, down + 0.02), start=0.022,
                  end=0.018) for s in (-1, 1)]  # fmt: skip
    return [Part(side, (70, 44, 44)) for side in sides]


def _whiskers(look: float, rng: Rng) -> list[Part]:
    lines = []
    for s in (-1, 1):
        for k in range(3):
            start = np.array([look + s * 0.28, 0.36 + 0.07 * k])
            end = start + np.array([s * rng.uniform(0.75, 1.0), rng.uniform(-0.2, 0.05) + 0.17 * k])
            lines.append(Part(np.stack([start, end]), (245, 245, 245)))
    return lines
