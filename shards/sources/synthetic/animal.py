"""The animals of the made-up dataset, as lists of outlines in painter's order; one unit is half the width of a head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from shards.sources.synthetic.breeds import Breed, Colour
from shards.sources.synthetic.head import draw_head
from shards.sources.synthetic.outlines import blob, ellipse, limb
from shards.sources.synthetic.parts import Part, darker, fur, place

Rng = np.random.Generator


@dataclass(frozen=True)
class Animal:
    """One animal.

    Attributes:
        parts: what to paint, from far to near.
        whiskers: lines from (x, y) to (x, y), thin, not part of the animal in the trimap (as in the real one).
        pose: the pose's name.
        ground: y on which it sits, lies or stands; None for a close-up, which the picture's lower edge cuts.
    """

    parts: tuple[Part, ...]
    whiskers: tuple[Part, ...]
    pose: str
    ground: float | None


def make_animal(breed: Breed, rng: Rng) -> Animal:
    """Draw an animal of a breed in a random pose, facing left or right."""
    breed = _varied(breed, rng)
    pose = str(rng.choice(list(_POSES), p=_POSE_WEIGHTS))
    body, (x, y), size, ground = _POSES[pose](breed, rng)
    head, whiskers = draw_head(breed, rng, asleep=pose == "curled" or rng.random() < 0.05)
    tilt = rng.normal(0, 0.13)
    head = [place(part, x=x, y=y, scale=size, turn=tilt) for part in head]
    whiskers = [place(part, x=x, y=y, scale=size, turn=tilt) for part in whiskers]
    stretch, mirror = rng.uniform(0.94, 1.06), rng.random() < 0.5
    done = [
        [place(part, stretch=-stretch if mirror else stretch) for part in group] for group in (body + head, whiskers)
    ]
    return Animal(parts=tuple(done[0]), whiskers=tuple(done[1]), pose=pose, ground=ground)


Body = tuple[list[Part], tuple[float, float], float, float | None]


def _sitting_front(breed: Breed, rng: Rng) -> Body:
    g, foot = breed.girth, 2.2 + 0.9 * breed.legs
    far, near = darker(breed.coat, 0.88), breed.coat
    parts = [
        _tail(breed, rng, (1.0 * g, foot - 0.3), (1.9 * g, foot - 0.15), (2.15 * g, foot - 0.9)),
        *(fur(ellipse(s * 1.0 * g, foot - 0.55, 0.62 * g, 0.62), far, breed, rng) for s in (-1, 1)),
        fur(blob((-0.6, 0.5), (-0.85 * g, 1.3), (-1.15 * g, foot - 0.6), (-0.9 * g, foot), (0.9 * g, foot),
                 (1.15 * g, foot - 0.6), (0.85 * g, 1.3), (0.6, 0.5)), near, breed, rng),
        fur(ellipse(0, 1.35, 0.5 * g, 0.75), breed.light, breed, rng, pattern=0.1, blend=True),
    ]  # fmt: skip
    for s in (-1, 1):
        parts.append(_paw(breed, rng, s * 1.05 * g, foot - 0.05, 0.42))
        parts.append(fur(limb((s * 0.45, 1.7), (s * 0.42, foot - 0.1), start=0.36, end=0.27), near, breed, rng))
        parts.append(_paw(breed, rng, s * 0.44, foot, 0.33))
    return parts, (0.0, 0.0), 1.0, foot + 0.15


def _sitting_side(breed: Breed, rng: Rng) -> Body:
    g, foot = breed.girth, 2.1 + 1.0 * breed.legs
    parts = [
        _tail(breed, rng, (1.9, foot - 0.2), (2.7, foot - 0.05), (3.3, foot - rng.uniform(0, 1.6))),
        fur(limb((0.25, 1.6), (0.22, foot - 0.1), start=0.36, end=0.25), darker(breed.coat, 0.8), breed, rng),
        _paw(breed, rng, 0.1, foot - 0.03, 0.34, shade=0.8),
        fur(blob((0.55, -0.1), (1.0, 0.8), (1.5 * g, 1.8), (2.05 * g, foot - 0.7), (1.95 * g, foot), (0.3, foot),
                 (-0.2, 1.9), (-0.45, 1.1), (-0.5, 0.4)), breed.coat, breed, rng),
        fur(ellipse(-0.12, 1.25, 0.34, 0.6, turn=0.2), breed.light, breed, rng, pattern=0.1, blend=True),
        fur(ellipse(1.3 * g, foot - 0.6, 0.75 * g, 0.66), breed.coat, breed, rng),
        _paw(breed, rng, 0.85, foot, 0.5),
        fur(limb((0.0, 1.7), (-0.1, foot - 0.1), start=0.36, end=0.26), breed.coat, breed, rng),
        _paw(breed, rng, -0.22, foot, 0.36),
    ]  # fmt: skip
    return parts, (0.0, 0.0), 1.0, foot + 0.15


def _lying(breed: Breed, rng: Rng) -> Body:
    g, low = breed.girth, 1.75
    top = low - 1.3 * g
    parts = [
        _tail(breed, rng, (3.5, 1.5), (4.3, 1.6), (4.9, rng.uniform(0.6, 1.65))),
        fur(limb((0.7, 1.4), (-0.9, 1.55), start=0.34, end=0.26), darker(breed.coat, 0.8), breed, rng),
        fur(blob((0.2, top), (1.5, top - 0.05), (2.9, top), (3.65, 1.0), (3.6, low), (1.8, low), (0.1, low),
                 (-0.5, 1.1)), breed.coat, breed, rng),
        fur(ellipse(0.0, 1.15, 0.42, 0.5), breed.light, breed, rng, pattern=0.1, blend=True),
        fur(ellipse(2.95, low - 0.55, 0.75, 0.62 * g), breed.coat, breed, rng),
        _paw(breed, rng, 2.3, low - 0.03, 0.6),
        fur(limb((0.4, 1.5), (-1.0, low - 0.08), start=0.34, end=0.27), breed.coat, breed, rng),
        _paw(breed, rng, -1.1, low - 0.06, 0.36),
    ]  # fmt: skip
    return parts, (-0.1, -0.1), 1.0, low + 0.15


def _standing(breed: Breed, rng: Rng) -> Body:
    g, foot = breed.girth, 1.7 + 1.3 * breed.legs
    far = darker(breed.coat, 0.78)
    stride = rng.uniform(-0.25, 0.35)

    def leg(x: float, lean: float, colour: Colour, shade: float) -> list[Part]:
        shape = limb((x, 1.2), (x + 0.1, foot - 0.7), (x + lean, foot - 0.08), start=0.4, end=0.22)
        return [fur(shape, colour, breed, rng), _paw(breed, rng, x + lean - 0.1, foot, 0.32, shade=shade)]

    parts = [
        *leg(1.05, stride, far, 0.8),
        *leg(3.2, -stride, far, 0.8),
        _tail(breed, rng, (3.6, 0.75), (4.2, 0.3), (4.3, rng.uniform(-1.0, 0.4))),
        fur(blob((0.5, 0.35), (1.6, 0.4), (2.9, 0.35), (3.75, 0.7), (3.65, 1.5), (2.4, 1.35 + 0.35 * g),
                 (1.2, 1.45 + 0.4 * g), (0.4, 1.4)), breed.coat, breed, rng),
        fur(limb((1.1, 1.0), (0.1, 0.15), start=0.85 * g, end=0.66), breed.coat, breed, rng),
        *leg(0.8, -stride * 0.7, breed.coat, 1.0),
        *leg(2.95, stride * 0.7, breed.coat, 1.0),
        fur(ellipse(0.45, 1.15, 0.36, 0.5, turn=0.5), breed.light, breed, rng, pattern=0.1, blend=True),
    ]  # fmt: skip
    return parts, (0.0, 0.0), 0.95, foot + 0.15


def _curled(breed: Breed, rng: Rng) -> Body:
    g = breed.girth
    parts = [
        fur(ellipse(0, 0, 2.1 * g, 1.35), breed.coat, breed, rng),
        fur(ellipse(1.0, 0.25, 0.95, 0.85, turn=0.3), breed.coat, breed, rng),
        _paw(breed, rng, 0.2, 1.1, 0.45),
        _tail(breed, rng, (2.0 * g, 0.5), (1.2, 1.25), (0.0, 1.45), (-1.0, 1.35)),
    ]
    return parts, (-1.1, 0.25), 0.85, 1.45


def _face(breed: Breed, rng: Rng) -> Body:
    g = breed.girth
    parts = [
        fur(blob((-0.7, 0.3), (-1.3 * g, 1.4), (-1.9 * g, 3.6), (0, 3.9), (1.9 * g, 3.6), (1.3 * g, 1.4), (0.7, 0.3)),
            darker(breed.coat, 0.94), breed, rng),
        fur(ellipse(0, 1.7, 0.6 * g, 0.9), breed.light, breed, rng, pattern=0.1, blend=True),
    ]  # fmt: skip
    return parts, (rng.normal(0, 0.1), 0.0), 1.15, None


_POSES: dict[str, Callable[[Breed, Rng], Body]] = {
    "sitting_front": _sitting_front,
    "sitting_side": _sitting_side,
    "lying": _lying,
    "standing": _standing,
    "curled": _curled,
    "face": _face,
}
_POSE_WEIGHTS = (0.2, 0.2, 0.18, 0.15, 0.09, 0.18)


def _tail(breed: Breed, rng: Rng, *path: tuple[float, float]) -> Part:
    width = 0.17 + 0.12 * breed.fluff
    shape = limb(*path, start=width * 1.1, end=width * (0.8 if breed.is_cat else 0.55))
    return fur(shape, breed.mark if breed.pattern == "points" else breed.coat, breed, rng)


def _paw(breed: Breed, rng: Rng, x: float, y: float, rx: float, *, shade: float = 1.0) -> Part:
    colour = breed.mark if breed.pattern == "points" else breed.light
    return fur(ellipse(x, y, rx, 0.2), darker(colour, shade), breed, rng, pattern=0.0)


def _varied(breed: Breed, rng: Rng) -> Breed:
    """An animal's own colours and proportions, near those of its breed."""

    def shifted(colour: Colour, gain: float) -> Colour:
        r, g, b = (int(np.clip(value * gain + rng.normal(0, 4), 0, 255)) for value in colour)
        return r, g, b

    gain = float(rng.uniform(0.88, 1.08))
    return replace(
        breed,
        coat=shifted(breed.coat, gain),
        light=shifted(breed.light, min(gain, 1.0)),
        mark=shifted(breed.mark, gain),
        girth=breed.girth * float(rng.uniform(0.9, 1.15)),
        legs=breed.legs * float(rng.uniform(0.9, 1.1)),
        fluff=breed.fluff * float(rng.uniform(0.7, 1.3)),
    )
