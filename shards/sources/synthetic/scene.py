"""What stands behind and around a made-up animal: meadow, sofa, floor, sky, clutter, wallpaper; things in front."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from shards.sources.synthetic.breeds import Colour
from shards.sources.synthetic.noise import NoiseBank, Texture
from shards.sources.synthetic.parts import darker

Rng = np.random.Generator
Brush = ImageDraw.ImageDraw

# Walls, cloth and things; muted, as rooms are, and partly in the colours of fur, so that colour alone does not tell.
_PALETTE: tuple[Colour, ...] = (
    (186, 170, 148), (142, 96, 62), (92, 66, 50), (206, 196, 178), (120, 132, 142), (74, 86, 104), (158, 70, 58),
    (96, 116, 82), (214, 178, 118), (230, 226, 218), (58, 56, 58), (168, 138, 154), (204, 132, 74), (128, 158, 170),
)  # fmt: skip


def draw_scene(size: tuple[int, int], ground: float, bank: NoiseBank, rng: Rng) -> npt.NDArray[np.float32]:
    """Draw a background.

    Args:
        size: width and height in pixels.
        ground: y in pixels on which the animal stands; the far end of the floor lies above it.
        bank: textures.
        rng: decides everything.

    Returns:
        float32 (H, W, 3), 0..255.
    """
    picture = Image.new("RGB", size)
    brush = ImageDraw.Draw(picture)
    horizon = int(np.clip(ground - rng.uniform(0.12, 0.45) * size[1], 0.15 * size[1], 0.85 * size[1]))
    kind = _SCENES[rng.integers(len(_SCENES))]
    rough = kind(brush, size, horizon, rng)
    for _ in range(rng.integers(0, 4)):
        _thing(brush, size, horizon + rng.uniform(0.05, 0.4) * size[1], rng)
    blur = float(rng.choice((0.6, 1.2, 2.5), p=(0.4, 0.4, 0.2)))
    field = np.asarray(picture.filter(ImageFilter.BoxBlur(blur)), dtype=np.float32)
    shape = (size[1], size[0])
    texture = bank.cut(rough, shape, rng, zoom=float(rng.uniform(1.0, 2.0)))
    texture = texture * np.float32(0.07) + bank.cut("cloud", shape, rng) * np.float32(0.05)
    texture[:horizon] *= 0.4  # the wall or the sky is smoother than the ground
    return np.asarray(field * (1 + texture)[:, :, None])


def draw_thing_in_front(size: tuple[int, int], box: tuple[float, float, float, float], rng: Rng) -> Image.Image | None:
    """Draw, in about every sixth picture, a ball, box or bowl that hides a part of the animal's feet.

    Args:
        size: width and height in pixels.
        box: the animal's left, top, right and bottom in pixels.
        rng: decides everything.

    Returns:
        RGBA of that size (alpha 0 or 255), or None.
    """
    if rng.random() > 0.16:
        return None
    layer = Image.new("RGBA", size)
    brush = ImageDraw.Draw(layer)
    left, top, right, bottom = box
    reach = 0.22 * min(right - left, bottom - top)
    x, y = rng.uniform(left, right), min(bottom, size[1]) + 0.3 * reach
    _thing(brush, size, y, rng, x=float(x), reach=float(reach))
    return layer


def _meadow(brush: Brush, size: tuple[int, int], horizon: int, rng: Rng) -> Texture:
    width, height = size
    sky = (int(rng.integers(130, 200)), int(rng.integers(170, 215)), int(rng.integers(205, 245)))
    _gradient(brush, (0, horizon), width, sky, (225, 228, 228))
    for _ in range(rng.integers(2, 7)):
        x, r = rng.uniform(0, width), rng.uniform(0.08, 0.25) * height
        green = (int(rng.integers(40, 90)), int(rng.integers(80, 130)), int(rng.integers(40, 70)))
        brush.ellipse((x - r, horizon - 1.3 * r, x + r, horizon + 0.5 * r), fill=green)
    near = (int(rng.integers(70, 130)), int(rng.integers(120, 165)), int(rng.integers(50, 80)))
    _gradient(brush, (horizon, height), width, darker(near, 0.85), near)
    rows = rng.uniform(horizon, height, 260)
    columns = rng.uniform(0, width, 260)
    for i, (x, y) in enumerate(zip(columns, rows, strict=True)):
        blade = 0.02 * height * (0.5 + (y - horizon) / (height - horizon + 1))
        tone = darker(near, 0.7 + 0.6 * (i % 7) / 7)
        brush.line((x, y, x + blade * ((i % 5) - 2) / 4, y - 1.5 * blade), fill=tone, width=1 + i % 2)
    if rng.random() < 0.4:
        petal = _PALETTE[rng.integers(len(_PALETTE))]
        for x, y in zip(columns[:60:2], rows[:60:2], strict=True):
            brush.ellipse((x - 2, y - 2, x + 2, y + 2), fill=petal)
    return "fur"


def _sofa(brush: Brush, size: tuple[int, int], horizon: int, rng: Rng) -> Texture:
    width, height = size
    _wallpaper(brush, size, rng)
    cloth = _pick(rng)
    seat = horizon + 0.12 * height
    brush.rounded_rectangle((-20, horizon - 0.35 * height, width + 20, height), radius=30, fill=darker(cloth, 0.85))
    step = width / int(rng.integers(2, 4))
    for x in np.arange(0, width, step):
        brush.rounded_rectangle((x + 3, horizon - 0.3 * height, x + step - 3, seat), radius=24, fill=cloth)
        brush.rounded_rectangle((x + 2, seat, x + step - 2, height * 0.97), radius=18, fill=darker(cloth, 1.08))
    if rng.random() < 0.6:
        x, r, cushion = rng.uniform(0, width), 0.2 * height, _pick(rng)
        brush.rounded_rectangle((x - r, seat - 1.4 * r, x + r, seat + 0.2 * r), radius=14, fill=cushion)
        for k in (-0.5, 0.0, 0.5):
            brush.line((x + k * r, seat - 1.4 * r, x + k * r, seat + 0.2 * r), fill=darker(cushion, 0.8), width=3)
    return "grain"


def _floor(brush: Brush, size: tuple[int, int], horizon: int, rng: Rng) -> Texture:
    width, height = size
    _wallpaper(brush, (width, horizon), rng)
    wood = (int(rng.integers(120, 200)), int(rng.integers(84, 140)), int(rng.integers(50, 96)))
    brush.rectangle((0, horizon, width, height), fill=wood)
    tiles, vanish = rng.random() < 0.4, width * rng.uniform(0.2, 0.8)
    for k in range(-14, 15):  # planks (or tiles) run towards a vanishing point
        foot = vanish + k * width * 0.14
        brush.line((foot, height, vanish + (foot - vanish) * 0.35, horizon), fill=darker(wood, 0.75), width=2)
    y = float(horizon)
    while tiles and y < height:
        brush.line((0, y, width, y), fill=darker(wood, 0.75), width=2)
        y += 0.03 * height + 0.35 * (y - horizon)
    brush.rectangle((0, horizon - 0.03 * height, width, horizon), fill=(226, 222, 214))
    if rng.random() < 0.4:
        rug, x = _pick(rng), width * rng.uniform(0.3, 0.7)
        brush.ellipse((x - 0.45 * width, horizon + 0.1 * height, x + 0.45 * width, height * 1.05), fill=rug)
        brush.ellipse((x - 0.38 * width, horizon + 0.15 * height, x + 0.38 * width, height), fill=darker(rug, 1.15))
    return "streak"


def _open_air(brush: Brush, size: tuple[int, int], horizon: int, rng: Rng) -> Texture:
    width, height = size
    blue = (int(rng.integers(80, 170)), int(rng.integers(140, 200)), int(rng.integers(200, 250)))
    _gradient(brush, (0, horizon), width, blue, (214, 226, 236))
    for _ in range(rng.integers(1, 5)):
        x, y, r = rng.uniform(0, width), rng.uniform(0, 0.7 * horizon), rng.uniform(0.03, 0.07) * width
        for k in (-1.2, -0.4, 0.5, 1.3):
            brush.ellipse(
                (x + k * r - r, y - r * (0.9 - 0.3 * abs(k)), x + k * r + r, y + 0.6 * r), fill=(244, 246, 248)
            )
    ground = ((216, 196, 152), (236, 240, 246), (150, 146, 140))[rng.integers(3)]  # sand, snow, stone
    if rng.random() < 0.5:
        brush.rectangle((0, horizon - 0.1 * height, width, horizon), fill=darker(blue, 0.75))  # the sea
    _gradient(brush, (horizon, height), width, darker(ground, 0.92), ground)
    return "cloud"


def _clutter(brush: Brush, size: tuple[int, int], horizon: int, rng: Rng) -> Texture:
    width, height = size
    brush.rectangle((0, 0, width, height), fill=_pick(rng))
    shelf = 0.0
    while shelf < horizon:  # shelves with books
        tall, x = rng.uniform(0.16, 0.26) * height, 0.0
        while x < width:
            thick, high = rng.uniform(0.02, 0.07) * width, tall * rng.uniform(0.6, 0.92)
            brush.rectangle((x, shelf + tall - high, x + thick, shelf + tall), fill=_pick(rng))
            x += thick + (rng.uniform(0, 0.1) * width if rng.random() < 0.15 else 1)
        brush.rectangle((0, shelf + tall, width, shelf + tall + 0.025 * height), fill=(110, 80, 56))
        shelf += tall + 0.025 * height
    brush.rectangle((0, horizon, width, height), fill=_pick(rng))
    for _ in range(rng.integers(3, 8)):
        _thing(brush, size, horizon + rng.uniform(0, 0.5) * height, rng)
    return "grain"


def _blanket(brush: Brush, size: tuple[int, int], horizon: int, rng: Rng) -> Texture:
    width, height = size
    cloth, band = _pick(rng), _pick(rng)
    brush.rectangle((0, 0, width, height), fill=cloth)
    step = int(rng.integers(24, 60))
    for x in range(0, width + height, step):
        brush.line((x, 0, x - 0.3 * height, height), fill=band, width=step // 3)
    for y in range(0, height, step):
        brush.line((0, y, width, y + 0.1 * width), fill=darker(band, 0.85), width=step // 4)
    brush.rectangle((0, 0, width, max(0, horizon - 0.2 * height)), fill=_pick(rng))
    return "grain"


_SCENES: tuple[Callable[[Brush, tuple[int, int], int, Rng], Texture], ...] = (
    _meadow, _sofa, _floor, _open_air, _clutter, _blanket,
)  # fmt: skip


def _wallpaper(brush: Brush, size: tuple[int, int], rng: Rng) -> None:
    """Plain, stripes, dots, or zigzag."""
    width, height = size
    wall, print_ = _pick(rng), _pick(rng)
    brush.rectangle((0, 0, width, height), fill=wall)
    kind, step = rng.integers(4), int(rng.integers(18, 44))
    if kind == 1:
        for x in range(0, width, step):
            brush.rectangle((x, 0, x + step // 3, height), fill=print_)
    elif kind == 2:
        for row, y in enumerate(range(0, height, step)):
            for x in range(row % 2 * step // 2, width, step):
                brush.ellipse((x, y, x + step // 3, y + step // 3), fill=print_)
    elif kind == 3:
        for y in range(0, height + step, step):
            line = [(x, y + (x // (step // 2) % 2) * step * 0.4) for x in range(0, width + step, step // 2)]
            brush.line(line, fill=print_, width=max(2, step // 8))


def _thing(
    brush: Brush, size: tuple[int, int], floor: float, rng: Rng, *, x: float | None = None, reach: float | None = None
) -> None:
    """A ball, box, bowl or plant pot standing on ``floor``."""
    x = float(rng.uniform(0, size[0])) if x is None else x
    r = float(rng.uniform(0.04, 0.13)) * min(size) if reach is None else reach
    colour = _pick(rng)
    kind = rng.integers(4)
    if kind == 0:
        brush.ellipse((x - r, floor - 2 * r, x + r, floor), fill=colour)
        brush.arc((x - r, floor - 2 * r, x + r, floor), 200, 340, fill=darker(colour, 1.3), width=max(2, int(r / 8)))
        brush.ellipse((x - 0.5 * r, floor - 1.7 * r, x - 0.2 * r, floor - 1.4 * r), fill=(240, 240, 236))
    elif kind == 1:
        brush.rectangle((x - r, floor - 1.5 * r, x + r, floor), fill=colour)
        brush.polygon(((x - r, floor - 1.5 * r), (x - 0.7 * r, floor - 1.9 * r), (x + 1.3 * r, floor - 1.9 * r),
                       (x + r, floor - 1.5 * r)), fill=darker(colour, 1.15))  # fmt: skip
        brush.line((x, floor - 1.5 * r, x, floor), fill=darker(colour, 0.8), width=max(2, int(r / 5)))
    elif kind == 2:
        brush.polygon(
            ((x - r, floor - 0.8 * r), (x + r, floor - 0.8 * r), (x + 0.7 * r, floor), (x - 0.7 * r, floor)),
            fill=colour,
        )
        brush.ellipse((x - r, floor - r, x + r, floor - 0.6 * r), fill=darker(colour, 0.7))
    else:
        for k in range(-3, 4):
            brush.line((x, floor - r, x + 0.4 * k * r, floor - (2.6 - 0.15 * k * k) * r), fill=(72, 112, 64),
                       width=max(2, int(r / 6)))  # fmt: skip
        brush.polygon(
            ((x - 0.7 * r, floor - r), (x + 0.7 * r, floor - r), (x + 0.5 * r, floor), (x - 0.5 * r, floor)),
            fill=colour,
        )


def _gradient(brush: Brush, rows: tuple[int, int], width: int, top: Colour, bottom: Colour) -> None:
    first, last = rows
    for y in range(first, last, 3):
        t = (y - first) / max(1, last - first)
        mixed = tuple(int(a + (b - a) * t) for a, b in zip(top, bottom, strict=True))
        brush.rectangle((0, y, width, y + 3), fill=mixed)


def _pick(rng: Rng) -> Colour:
    return darker(_PALETTE[rng.integers(len(_PALETTE))], float(rng.uniform(0.75, 1.1)))
