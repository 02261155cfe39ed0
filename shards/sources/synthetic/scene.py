"""What is behind and around an animal: meadow, sofa, floor, open air, shelves, blanket, and things that lie about."""

from __future__ import annotations

import cv2
import numpy as np

from shards.sources.synthetic.breeds import Colour, shaded
from shards.sources.synthetic.drawing import Canvas, Field, Rng, TextureBank, box, draw_lines, ellipse, fill, limb

# Walls, cloth and things; muted, as rooms are, and partly in the colours of fur, so that colour alone does not tell.
_PALETTE: tuple[Colour, ...] = (
    (186, 170, 148), (142, 96, 62), (92, 66, 50), (206, 196, 178), (120, 132, 142), (74, 86, 104), (158, 70, 58),
    (96, 116, 82), (214, 178, 118), (230, 226, 218), (58, 56, 58), (168, 138, 154), (204, 132, 74), (128, 158, 170),
)  # fmt: skip

# Ball, box, bowl and plant: outlines, half as wide as 1 and standing on y = 0, and how much lighter each is (0: green).
_LEAVES = [limb((0, -1), (0.4 * k, 0.15 * k * k - 2.6), start=0.1, end=0.05) for k in range(-3, 4)]
_THINGS = (
    ((ellipse(0, -1, 1, 1), 0.9), (ellipse(0, -1.04, 0.9, 0.9), 1), (ellipse(-0.35, -1.5, 0.15, 0.15), 2.5)),
    ((box(-1, -1.5, 1, 0), 1), (np.array([(-1, -1.5), (-0.7, -1.9), (1.3, -1.9), (1, -1.5)]), 1.15),
     (box(-0.1, -1.5, 0.1, 0), 0.8)),
    ((np.array([(-1, -0.8), (1, -0.8), (0.7, 0), (-0.7, 0)]), 1), (ellipse(0, -0.8, 1, 0.2), 0.7)),
    (*((leaf, 0) for leaf in _LEAVES), (np.array([(-0.7, -1), (0.7, -1), (0.5, 0), (-0.5, 0)]), 1)),
)  # fmt: skip


def draw_scene(shape: tuple[int, int], ground: float, bank: TextureBank, rng: Rng) -> Field:
    """Draw a background, float32 (H, W, 3), 0..255; ``ground`` is the y in pixels on which the animal stands."""
    height, width = shape
    canvas = np.zeros((height, width, 3), dtype=np.uint8)
    horizon = int(np.clip(ground - rng.uniform(0.12, 0.45) * height, 0.15 * height, 0.85 * height))
    draw, texture, things = _SCENES[rng.integers(len(_SCENES))]
    draw(canvas, width, height, horizon, rng)
    for _ in range(rng.integers(things, things + 4)):
        reach = rng.uniform(0.04, 0.13) * min(shape)
        draw_thing(canvas, rng.uniform(0, width), horizon + rng.uniform(0.05, 0.45) * height, reach, rng)
    rough = bank.cut(texture, shape, rng, rng.uniform(1, 2)) * 0.07 + bank.cut("cloud", shape, rng) * 0.05
    rough[:horizon] *= 0.4  # the wall or the sky is smoother than the ground
    soft = cv2.GaussianBlur(canvas, (0, 0), rng.choice((0.6, 1.0, 2.0), p=(0.4, 0.4, 0.2)))
    return np.asarray(soft * (1 + rough)[:, :, None])


def draw_thing(canvas: Canvas, x: float, floor: float, reach: float, rng: Rng) -> None:
    """Draw a ball, box, bowl or plant of half width ``reach``, standing on ``floor``; all in pixels."""
    colour = _pick(rng)
    for outline, factor in _THINGS[rng.integers(len(_THINGS))]:
        fill(canvas, outline * reach + np.array([x, floor]), shaded(colour, factor) if factor else (72, 112, 64))


def _meadow(canvas: Canvas, width: int, height: int, horizon: int, rng: Rng) -> None:
    sky, near = rng.uniform((130, 170, 205), (200, 215, 245)), rng.uniform((70, 120, 50), (130, 165, 80))
    canvas[:horizon] = np.linspace(sky, (225, 228, 228), horizon)[:, None]
    for _ in range(rng.integers(2, 7)):  # bushes
        x, r = rng.uniform(0, width), rng.uniform(0.08, 0.25) * height
        fill(canvas, ellipse(x, horizon - 0.4 * r, r, 0.9 * r), rng.uniform((40, 80, 40), (90, 130, 70)))
    canvas[horizon:] = np.linspace(near * 0.85, near, height - horizon)[:, None]
    roots = rng.uniform((0, horizon), (width, height), (260, 2))
    size = 0.01 * height + 0.03 * (roots[:, 1:] - horizon)
    blades = np.stack([roots, roots + size * rng.uniform((-0.5, -1.5), (0.5, -1.2), (260, 2))], axis=1)
    for k in range(7):
        draw_lines(canvas, blades[k::7], near * (0.7 + 0.09 * k), 1 + k % 2)
    petal = _pick(rng)
    for x, y in roots[: rng.choice((0, 30), p=(0.6, 0.4))]:
        fill(canvas, ellipse(x, y, 2, 2), petal)


def _sofa(canvas: Canvas, width: int, height: int, horizon: int, rng: Rng) -> None:
    _paper(canvas, rng)
    cloth, seat = _pick(rng), horizon + 0.12 * height
    fill(canvas, box(-20, horizon - 0.35 * height, width + 20, height + 40, 30), shaded(cloth, 0.85))
    step = width / rng.integers(2, 4)
    for x in np.arange(0, width, step):
        fill(canvas, box(x + 3, horizon - 0.3 * height, x + step - 3, seat, 24), cloth)
        fill(canvas, box(x + 2, seat, x + step - 2, height * 0.97, 18), shaded(cloth, 1.08))
    if rng.random() < 0.6:
        x, r, cushion = rng.uniform(0, width), 0.2 * height, _pick(rng)
        fill(canvas, box(x - r, seat - 1.4 * r, x + r, seat + 0.2 * r, 14), cushion)
        for k in (-0.5, 0.0, 0.5):
            fill(canvas, box(x + k * r - 1, seat - 1.4 * r, x + k * r + 1, seat + 0.2 * r), shaded(cushion, 0.8))


def _floor(canvas: Canvas, width: int, height: int, horizon: int, rng: Rng) -> None:
    _paper(canvas, rng)
    wood, ground = rng.uniform((120, 84, 50), (200, 140, 96)), canvas[horizon:]
    ground[:], deep = wood, height - horizon
    vanish, feet = width * rng.uniform(0.2, 0.8), np.arange(-14, 15) * width * 0.14
    lines = [np.array([(vanish + foot, deep), (vanish + foot * 0.35, 0)]) for foot in feet]  # planks
    if rng.random() < 0.4:  # tiles
        lines += [np.array([(0, y), (width, y)]) for y in 0.09 * height * (1.35 ** np.arange(10) - 1)]
    draw_lines(ground, lines, wood * 0.75, 2)
    canvas[horizon - int(0.03 * height) : horizon] = (226, 222, 214)
    if rng.random() < 0.4:
        x, rug = width * rng.uniform(0.3, 0.7), _pick(rng)
        fill(ground, ellipse(x, 0.6 * deep, 0.45 * width, 0.42 * deep), rug)
        fill(ground, ellipse(x, 0.6 * deep, 0.38 * width, 0.35 * deep), shaded(rug, 1.15))


def _open_air(canvas: Canvas, width: int, height: int, horizon: int, rng: Rng) -> None:
    blue = rng.uniform((80, 140, 200), (170, 200, 250))
    canvas[:horizon] = np.linspace(blue, (214, 226, 236), horizon)[:, None]
    for _ in range(rng.integers(1, 5)):  # clouds
        x, y, r = rng.uniform(0, width), rng.uniform(0, 0.7 * horizon), rng.uniform(0.03, 0.07) * width
        for k in (-1.2, -0.4, 0.5, 1.3):
            fill(canvas, ellipse(x + k * r, y + 0.15 * r * abs(k), r, r * (0.75 - 0.15 * abs(k))), (244, 246, 248))
    if rng.random() < 0.5:
        canvas[horizon - int(0.1 * height) : horizon] = blue * 0.75  # the sea
    ground = ((216, 196, 152), (236, 240, 246), (150, 146, 140))[rng.integers(3)]  # sand, snow, stone
    canvas[horizon:] = np.linspace(shaded(ground, 0.92), ground, height - horizon)[:, None]


def _shelves(canvas: Canvas, width: int, height: int, horizon: int, rng: Rng) -> None:
    canvas[:], shelf = _pick(rng), 0.0
    while shelf < horizon:
        top, x = shelf, 0.0
        shelf += rng.uniform(0.18, 0.28) * height
        while x < width:
            thick, book = rng.uniform(0.02, 0.07) * width, (shelf - top) * rng.uniform(0.55, 0.85)
            fill(canvas, box(x, shelf - book, x + thick - 1, shelf), _pick(rng))
            x += thick + (rng.uniform(0, 0.1) * width if rng.random() < 0.15 else 1)
        fill(canvas, box(0, shelf - 0.025 * height, width, shelf), (110, 80, 56))
    canvas[horizon:] = _pick(rng)


def _blanket(canvas: Canvas, width: int, height: int, horizon: int, rng: Rng) -> None:
    canvas[:], band, step = _pick(rng), _pick(rng), int(rng.integers(24, 60))
    slanted = [np.array([(x, 0), (x - 0.3 * height, height)]) for x in range(0, width + height, step)]
    draw_lines(canvas, slanted, band, step / 3)
    level = [np.array([(0, y), (width, y + 0.1 * width)]) for y in range(-height, height, step)]
    draw_lines(canvas, level, shaded(band, 0.85), step / 4)
    _paper(canvas[: max(1, horizon - int(0.2 * height))], rng)


# Each with the texture of the ground and how many things lie about at least.
_SCENES = (
    (_meadow, "fur", 0), (_sofa, "grain", 0), (_floor, "streak", 0), (_open_air, "cloud", 0), (_shelves, "grain", 3),
    (_blanket, "grain", 0),
)  # fmt: skip


def _paper(wall: Canvas, rng: Rng) -> None:
    """Paper a wall: plain, stripes, dots, or zigzag."""
    height, width = wall.shape[:2]
    wall[:], ink = _pick(rng), _pick(rng)
    kind, step = rng.integers(4), int(rng.integers(18, 44))
    if kind == 1:
        wall[:, np.arange(width) % step <= step // 3] = ink
    elif kind == 2:
        for row, column in np.ndindex(height // step + 1, width // step + 1):
            fill(wall, ellipse((column + row % 2 / 2) * step, row * step, step / 6, step / 6), ink)
    elif kind == 3:
        x = np.arange(0, width + step, step // 2)
        zigzag = np.stack([x, x // (step // 2) % 2 * step * 0.4], axis=1)
        draw_lines(wall, [zigzag + np.array([0, y]) for y in range(0, height + step, step)], ink, step / 8)


def _pick(rng: Rng) -> Colour:
    return shaded(_PALETTE[rng.integers(len(_PALETTE))], rng.uniform(0.75, 1.1))
