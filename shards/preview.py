"""A contact sheet of images with their masks tinted and outlined, to see at a glance whether they match."""

import io
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from shards.errors import UsageError
from shards.format.dataset import ShardSet, SplitReader
from shards.format.geometry import size_text
from shards.format.labels import Labels
from shards.store.atomic import atomic_file

MAX_COUNT: Final = 1_000  # a sheet of about 70 million pixels, 200 MB while it is drawn
TILE: Final = 220
MARGIN: Final = 12
CAPTION: Final = 34  # two lines below a tile
HEADER: Final = 58
TINT: Final = 0.45
Pixels = npt.NDArray[np.uint8]
_PAPER, _INK, _FAINT = (250, 250, 248), (30, 30, 30), (110, 110, 110)


def contact_sheet(shards: ShardSet, path: Path, *, split: str | None = None, count: int = 24) -> int:
    """Draw the first samples of a split (None: of the first split) as a PNG; return their number.

    They are at most ``count``, 1..:data:`MAX_COUNT`; the order of samples is pseudo-random already. Raises
    ``UsageError`` for no such split, a count out of range, or a path that does not end in .png, and ``SampleError`` if
    a sample is damaged.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path} does not end in .png")
    if not 1 <= count <= MAX_COUNT:
        raise UsageError(f"--count {count}: a sheet holds 1 to {MAX_COUNT:,} samples")
    reader = shards.split(split or next(iter(shards.manifest.splits)))
    number = min(count, len(reader))
    columns = min(number, max(3, round((number * 1.5) ** 0.5)))
    rows = -(-number // columns)
    width = max(MARGIN + columns * (TILE + MARGIN), 3 * (TILE + MARGIN) + MARGIN)
    sheet = Image.new("RGB", (width, HEADER + rows * (TILE + CAPTION + MARGIN)), _PAPER)
    _header(sheet, shards, reader, number)
    for index in range(number):
        x = MARGIN + index % columns * (TILE + MARGIN)
        y = HEADER + index // columns * (TILE + CAPTION + MARGIN)
        _place(sheet, reader, index, x, y)
    with atomic_file(path) as handle:
        sheet.save(handle, "PNG")
    return number


def overlay(image: Pixels, mask: Pixels, labels: Labels) -> Pixels:
    """Tint and outline the classes of a mask, uint8 (height, width) of indices, over an image, (height, width, 3).

    Ignored pixels and classes of the colour :data:`shards.format.labels.UNTINTED` stay as they are.
    """
    drawn = image.astype(np.float32)
    for index in np.flatnonzero(labels.tinted):
        area = mask == index
        colour = labels.palette[index].astype(np.float32)
        drawn[area] += (colour - drawn[area]) * TINT
        drawn[_outline(area)] = colour
    return drawn.round().astype(np.uint8)


def _place(sheet: Image.Image, reader: SplitReader, index: int, x: int, y: int) -> None:
    files = [io.BytesIO(reader.read(index, role)) for role in ("image", "mask")]
    if reader.manifest.storage == "raw":
        image, mask = (Image.fromarray(np.load(file)) for file in files)
    else:
        image, mask = Image.open(files[0]).convert("RGB"), Image.open(files[1])
    scale = TILE / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    classes = np.asarray(mask.resize(size, Image.Resampling.NEAREST))
    sheet.paste(
        Image.fromarray(overlay(pixels, classes, reader.manifest.labels)),
        (x + (TILE - size[0]) // 2, y + TILE - size[1]),
    )
    meta = reader.meta(index)
    draw = ImageDraw.Draw(sheet)
    draw.text((x, y + TILE + 3), _shortened(reader.key(index), 12), fill=_INK, font_size=12)
    details = f"{meta['width']} x {meta['height']}"
    if "breed" in meta:
        details = f"{meta['breed']}, {details}"
    draw.text((x, y + TILE + 18), _shortened(details, 11), fill=_FAINT, font_size=11)


def _header(sheet: Image.Image, shards: ShardSet, reader: SplitReader, number: int) -> None:
    draw = ImageDraw.Draw(sheet)
    side = f", {size_text(shards.manifest.size)} pixels" if shards.manifest.size else ""
    content = f"{number} of {len(reader)} in {reader.name} ({shards.manifest.storage}{side})"
    draw.text((MARGIN, 8), f"{shards.path.resolve().name}: {content}", fill=_INK, font_size=16)
    x = MARGIN
    for each in shards.manifest.labels.classes:
        draw.rectangle((x, 35, x + 16, 49), fill=each.color, outline=_FAINT)
        draw.text((x + 22, 34), each.name, fill=_INK, font_size=13)
        x += 44 + round(draw.textlength(each.name, font_size=13))


def _outline(area: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return the pixels of an area that touch another class (not the image's edge)."""
    inner = area.copy()
    inner[1:] &= area[:-1]
    inner[:-1] &= area[1:]
    inner[:, 1:] &= area[:, :-1]
    inner[:, :-1] &= area[:, 1:]
    return np.asarray(area & ~inner)


def _shortened(text: str, size: int) -> str:
    font = ImageFont.load_default(size)
    if font.getlength(text) <= TILE:
        return text
    while text and font.getlength(text + "...") > TILE:
        text = text[:-1]
    return text + "..."
