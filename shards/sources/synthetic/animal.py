"""What an animal looks like: filled outlines, from far to near; one unit is half the width of a head."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from shards.sources.synthetic.breeds import Breed, Colour, shaded
from shards.sources.synthetic.drawing import Points, Rng, blob, ellipse, limb, rotate, ruffle

Kind: TypeAlias = Literal["flat", "volume", "soft", "line"]
_INNER_EAR, _TONGUE, _DARK, _LIPS = (190, 140, 130), (222, 112, 118), (24, 20, 20), (70, 44, 44)
_EARS = {
    "cat": ((0.22, -0.62), (0.5, -0.95), (0.86, -1.28), (1, -0.8), (0.97, -0.25)),
    "pointed": ((0.25, -0.7), (0.6, -1.5), (0.88, -0.75), (0.85, -0.3)),
    "folded": ((0.35, -0.8), (0.7, -1.12), (1.12, -0.62), (0.98, -0.38), (0.8, -0.5)),
    "floppy": ((0.5, -0.78), (0.95, -0.7), (1.22, 0.1), (1.15, 0.45), (0.85, 0.55), (0.74, 0)),
    "long": ((0.5, -0.78), (0.95, -0.7), (1.22, 0.1), (1.15, 1.15), (0.85, 1.25), (0.74, 0)),
}


class Part(NamedTuple):
    """An outline; a ``volume`` is shaded, a ``soft`` one lies within others, a ``line`` is too thin for the mask."""

    points: Points
    colour: Colour
    pattern: float  # how strongly the coat's pattern shows on it, 0 (eyes, nose, paws) .. 1
    kind: Kind


@dataclass
class Animal:
    """One animal: what to paint, from far to near, and what draws it."""

    breed: Breed  # with this animal's own colours and proportions
    rng: Rng  # decides what differs between animals of a breed
    parts: list[Part] = field(default_factory=list)
    close_up: bool = False  # the image's lower edge cuts it
    matrix: Points = field(default_factory=lambda: np.eye(2))  # applied to the points that are added
    shift: tuple[float, float] = (0, 0)  # added to them

    def add(self, points: Points, colour: Colour, pattern: float = 0.0, kind: Kind = "flat") -> None:
        """Add a part."""
        self.parts.append(Part(points @ self.matrix + self.shift, colour, pattern, kind))

    def fur(self, points: Points, colour: Colour | None = None, pattern: float = 1.0) -> None:
        """Add a part with fur, in the colour of the coat if no other is given."""
        points = ruffle(points, 0.015 + 0.045 * self.breed.fluff, self.rng)
        self.add(points, colour or self.breed.coat, pattern, "volume")

    def paw(self, x: float, y: float, rx: float, factor: float = 1.0) -> None:
        """Add a paw, shaded by ``factor``."""
        colour = self.breed.mark if self.breed.pattern == "points" else self.breed.light
        self.fur(ellipse(x, y, rx, 0.2), shaded(colour, factor), 0.0)

    def leg(self, *path: tuple[float, float], start: float = 0.36, end: float = 0.26, factor: float = 1.0) -> None:
        """Add a leg with a paw at its end, shaded by ``factor``."""
        self.fur(limb(*path, start=start, end=end), shaded(self.breed.coat, factor))
        self.paw(path[-1][0] - 0.1, path[-1][1] + 0.08, 0.34, factor)

    def tail(self, *path: tuple[float, float]) -> None:
        """Add a tail; a dog's is more pointed."""
        width = 0.17 + 0.12 * self.breed.fluff
        end = width * (0.8 if self.breed.is_cat else 0.55)
        self.fur(limb(*path, start=width * 1.1, end=end), self.breed.mark if self.breed.pattern == "points" else None)


def make_animal(breed: Breed, rng: Rng) -> Animal:
    """Draw an animal of a breed in a random pose, facing left or right."""
    pet = Animal(_individual(breed, rng), rng, matrix=np.diag([rng.uniform(0.94, 1.06) * rng.choice((-1, 1)), 1.0]))
    draw_body, (x, y), size, _ = _POSES[rng.choice(len(_POSES), p=[pose[-1] for pose in _POSES])]
    draw_body(pet, pet.breed.girth, rng)
    pet.shift = (x * pet.matrix[0, 0], y)
    pet.matrix = rotate(np.eye(2) * size, rng.normal(0, 0.13)) @ pet.matrix
    draw_head, look = _draw_cat if breed.is_cat else _draw_dog, rng.uniform(-0.16, 0.16)
    draw_head(pet, pet.breed, look, draw_body is _curled or rng.random() < 0.05)
    return pet


def _individual(breed: Breed, rng: Rng) -> Breed:
    """Return one animal's own colours and proportions, near those of its breed."""
    gain = rng.uniform(0.88, 1.08)
    varied: dict[str, Any] = {}
    for name in ("coat", "light", "mark"):
        varied[name] = tuple(np.clip(np.multiply(getattr(breed, name), gain) + rng.normal(0, 4, 3), 0, 255).tolist())
    for name, low, high in (("girth", 0.9, 1.15), ("legs", 0.9, 1.1), ("fluff", 0.7, 1.3)):
        varied[name] = getattr(breed, name) * rng.uniform(low, high)
    return replace(breed, **varied)


def _sitting_front(pet: Animal, g: float, rng: Rng) -> None:
    foot = 2.2 + 0.9 * pet.breed.legs
    pet.tail((g, foot - 0.3), (1.9 * g, foot - 0.15), (2.15 * g, foot - rng.uniform(0.6, 1.1)))
    for s in (-1, 1):
        pet.fur(ellipse(s * g, foot - 0.55, 0.62 * g, 0.62), shaded(pet.breed.coat, 0.88))
    pet.fur(blob((-0.6, 0.5), (-0.85 * g, 1.3), (-1.15 * g, foot - 0.6), (-0.9 * g, foot), mirrored=True))
    pet.add(ellipse(0, 1.35, 0.5 * g, 0.75), pet.breed.light, 0.1, "soft")
    for s in (-1, 1):
        pet.paw(s * 1.05 * g, foot - 0.05, 0.42)
        pet.leg((s * 0.45, 1.7), (s * 0.42 + 0.08, foot - 0.08))


def _sitting_side(pet: Animal, g: float, rng: Rng) -> None:
    foot = 2.1 + 1.0 * pet.breed.legs
    pet.tail((1.9, foot - 0.2), (2.7, foot - 0.05), (3.3, foot - rng.uniform(0, 1.6)))
    pet.leg((0.25, 1.6), (0.22, foot - 0.1), factor=0.8)
    back = (0.55, -0.1), (1.0, 0.8), (1.5 * g, 1.8), (2.05 * g, foot - 0.7), (1.95 * g, foot)
    pet.fur(blob(*back, (0.3, foot), (-0.2, 1.9), (-0.45, 1.1), (-0.5, 0.4)))
    pet.add(ellipse(-0.12, 1.25, 0.34, 0.6, 0.2), pet.breed.light, 0.1, "soft")
    pet.fur(ellipse(1.3 * g, foot - 0.6, 0.75 * g, 0.66))
    pet.paw(0.85, foot, 0.5)
    pet.leg((0.0, 1.7), (-0.1, foot - 0.08))


def _lying(pet: Animal, g: float, rng: Rng) -> None:
    low, top = 1.75, 1.75 - 1.3 * g
    pet.tail((3.5, 1.5), (4.3, 1.6), (4.9, rng.uniform(0.6, 1.65)))
    pet.leg((0.7, 1.4), (-0.8, 1.55), factor=0.8)
    back = (0.2, top), (1.5, top - 0.05), (2.9, top), (3.65, 1.0)
    pet.fur(blob(*back, (3.6, low), (1.8, low), (0.1, low), (-0.5, 1.1)))
    pet.add(ellipse(0, 1.15, 0.42, 0.5), pet.breed.light, 0.1, "soft")
    pet.fur(ellipse(2.95, low - 0.55, 0.75, 0.62 * g))
    pet.paw(2.3, low - 0.03, 0.6)
    pet.leg((0.4, 1.5), (-1.0, low - 0.1))


def _standing(pet: Animal, g: float, rng: Rng) -> None:
    foot, stride = 1.7 + 1.3 * pet.breed.legs, rng.uniform(-0.25, 0.35)
    for x, lean in ((1.05, stride), (3.2, -stride)):
        pet.leg((x, 1.2), (x + 0.1, foot - 0.7), (x + lean, foot - 0.08), start=0.4, end=0.22, factor=0.8)
    pet.tail((3.6, 0.75), (4.2, 0.3), (4.3, rng.uniform(-1.0, 0.4)))
    belly = (3.65, 1.5), (2.4, 1.35 + 0.35 * g), (1.2, 1.45 + 0.4 * g), (0.4, 1.4)
    pet.fur(blob((0.5, 0.35), (1.6, 0.4), (2.9, 0.35), (3.75, 0.7), *belly))
    pet.fur(limb((1.1, 1.0), (0.1, 0.15), start=0.85 * g, end=0.66))
    for x, lean in ((0.8, -0.7 * stride), (2.95, 0.7 * stride)):
        pet.leg((x, 1.2), (x + 0.1, foot - 0.7), (x + lean, foot - 0.08), start=0.4, end=0.22)
    pet.add(ellipse(0.45, 1.15, 0.36, 0.5, 0.5), pet.breed.light, 0.1, "soft")


def _curled(pet: Animal, g: float, rng: Rng) -> None:
    pet.fur(ellipse(0, 0, 2.1 * g, 1.35))
    pet.fur(ellipse(1.0, 0.25, 0.95, 0.85, 0.3))
    pet.paw(0.2, 1.1, 0.45)
    pet.tail((2.0 * g, 0.5), (1.2, 1.25), (0.0, 1.45), (-1.0, rng.uniform(1.25, 1.4)))


def _close_up(pet: Animal, g: float, rng: Rng) -> None:
    shoulders = blob((-0.7, 0.3), (-1.3 * g, 1.4), (-1.9 * g, 3.6), (0, rng.uniform(3.8, 4.0)), mirrored=True)
    pet.fur(shoulders, shaded(pet.breed.coat, 0.94))
    pet.close_up = True
    pet.add(ellipse(0, 1.7, 0.6 * g, 0.9), pet.breed.light, 0.1, "soft")


# Each with the place and size of the head, and how often it occurs.
_POSES = (
    (_sitting_front, (0, 0), 1, 0.2), (_sitting_side, (0, 0), 1, 0.2), (_lying, (-0.1, -0.1), 1, 0.18),
    (_standing, (0, 0), 0.95, 0.15), (_curled, (-1.1, 0.25), 0.85, 0.09), (_close_up, (0, 0), 1.15, 0.18),
)  # fmt: skip


def _draw_cat(pet: Animal, breed: Breed, look: float, asleep: bool) -> None:
    """Draw a head from the front, centred on (0, 0), about two units wide, the face ``look`` to one side."""
    _draw_ears(pet, "cat", breed.mark if breed.pattern == "points" else breed.coat)
    pet.fur(blob((0, -0.84), (-0.62, -0.7), (-1.0, -0.05), (-0.86, 0.42), (-0.35, 0.76), (0, 0.82), mirrored=True))
    muzzle, top = getattr(breed, breed.muzzle), -0.25 if breed.muzzle == "mark" else -0.1
    pet.add(blob((0, top), (-0.52, 0.32), (0, 0.74), mirrored=True) + np.array([look, 0]), muzzle, 0.1, "soft")
    for s in (-1, 1):
        pet.add(ellipse(look + s * 0.2, 0.4, 0.26, 0.2), muzzle)
    _draw_eyes(pet, look, asleep)
    pet.add(blob((look - 0.13, 0.18), (look + 0.13, 0.18), (look, 0.33)), breed.nose)
    _draw_mouth(pet, look, 0.33, 0.22)
    for s, k in ((-1, 0), (-1, 1), (-1, 2), (1, 0), (1, 1), (1, 2)):
        x, y = look + s * 0.28, 0.36 + 0.07 * k
        tip = (x + s * pet.rng.uniform(0.75, 1.0), y + pet.rng.uniform(-0.2, 0.05) + 0.17 * k)
        pet.add(np.array([(x, y), tip]), (235, 235, 235), kind="line")


def _draw_dog(pet: Animal, breed: Breed, look: float, asleep: bool) -> None:
    skull = blob((0, -0.88), (-0.6, -0.75), (-0.88, -0.2), (-0.78, 0.35), (-0.45, 0.8), (0, 0.98), mirrored=True)
    if breed.ears in ("floppy", "long"):
        pet.fur(skull)
    _draw_ears(pet, breed.ears, shaded(breed.coat if breed.pattern in ("solid", "brindle") else breed.mark, 0.9))
    if breed.ears in ("pointed", "folded"):
        pet.fur(skull)
    if breed.pattern == "patches" or pet.rng.random() < 0.3:  # a blaze
        pet.add(blob((look * 0.5, -0.8), (look - 0.17, 0.1), (look + 0.17, 0.1)), breed.light, 0.2, "soft")
    if pet.rng.random() < 0.4 and not asleep:  # panting: the tongue hangs out below the muzzle
        pet.add(limb((look, 0.75), (look + 0.04, 1.15), start=0.17, end=0.16), _TONGUE, kind="volume")
    pet.add(ellipse(look, 0.5, 0.52, 0.44), getattr(breed, breed.muzzle), kind="volume")
    _draw_eyes(pet, look, asleep)
    pet.add(ellipse(look * 1.3, 0.26, 0.2, 0.15), breed.nose)
    pet.add(ellipse(look * 1.3 - 0.06, 0.2, 0.06, 0.03), (150, 140, 140))
    _draw_mouth(pet, look * 1.2, 0.42, 0.3)


def _draw_ears(pet: Animal, kind: str, colour: Colour) -> None:
    for s in (-1, 1):
        ear = rotate(blob(*_EARS[kind]), pet.rng.normal(0, 0.05)) * (s, 1)
        pet.fur(ear, colour, 0.3)
        if kind in ("cat", "pointed"):
            pet.add(ear.mean(axis=0) * 0.45 + ear * 0.55, _INNER_EAR)


def _draw_eyes(pet: Animal, look: float, asleep: bool) -> None:
    cat = pet.breed.is_cat
    size, slit = (pet.rng.uniform(0.17, 0.22), (0.36, 0.86)) if cat else (0.17, (0.6, 0.6))
    for s in (-1, 1):
        x, y, tilt = (look + s * 0.43, -0.1, -0.25 * s) if cat else (look + s * 0.38, -0.14, 0.0)
        if asleep:
            lid = limb((x - 0.2, y), (x, y + 0.09), (x + 0.2, y), start=0.035, end=0.03)
            pet.add(lid, shaded(pet.breed.mark, 0.5))
        else:
            pet.add(ellipse(x, y, size * 1.3, size * 1.08, tilt), _DARK)
            pet.add(ellipse(x, y, size * 1.12, size * 0.92, tilt), pet.breed.eyes)
            pet.add(ellipse(x, y, size * slit[0], size * slit[1]), _DARK)
            pet.add(ellipse(x - 0.06, y - 0.07, 0.05, 0.05), (250, 250, 250))


def _draw_mouth(pet: Animal, x: float, y: float, width: float) -> None:
    for end in (-width, width):
        path = (x, y), (x, y + 0.14), (x + end / 2, y + 0.24), (x + end, y + 0.16)
        pet.add(limb(*path, start=0.02, end=0.016), _LIPS)
