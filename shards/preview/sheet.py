"""A contact sheet of images with their masks tinted and outlined, to see at a glance whether they match."""

from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from shards.errors import UsageError, option
from shards.format.dataset import ShardSet, SplitReader
from shards.format.geometry import size_text
from shards.format.overlays import legend, overlay, shortened
from shards.format.readers.output_places import expect_ending, expect_free
from shards.preview.small_sample import small_sample
from shards.store.atomic import atomic_file

MAX_COUNT: Final = 1_000  # a sheet of about 70 million pixels, 200 MB while it is drawn
TILE: Final = 220  # width, pixels; the height follows the images
MARGIN: Final = 12
CAPTION: Final = 34  # two lines below a tile
HEADING: Final = 34  # above the legend
SHAPES: Final = (0.35, 1.4)  # the flattest and the tallest tile: its height by its width
_PAPER, _INK, _FAINT = (250, 250, 248), (30, 30, 30), (110, 110, 110)
_SHOWN_VALUES = 2  # attributes of a sample in its caption


def contact_sheet(
    shards: ShardSet, path: Path, *, split: str | None = None, count: int = 24, overwrite: bool = False
) -> int:
    """Draw the first samples of a split (None: of the first split) as a PNG; return their number.

    They are at most ``count``, 1..:data:`MAX_COUNT`; the order of samples is pseudo-random already. The legend names
    the classes that occur in them. Raises ``UsageError`` for no such split, a count out of range, a path that does not
    end in .png, or one that :func:`expect_free` refuses, and ``SampleError`` if a sample is
    damaged.
    """
    expect_ending(path, ".png")
    if not 1 <= count <= MAX_COUNT:
        raise UsageError(f"{option('count', count)}: a sheet holds 1 to {MAX_COUNT:,} samples")
    expect_free(path, overwrite=overwrite)
    reader = shards.split(split or next(iter(shards.manifest.splits)))
    number = min(count, len(reader))
    tile_height = _tile_height(reader, number)
    columns = min(number, max(3, round((number * 1.5 * tile_height / TILE) ** 0.5)))
    rows = -(-number // columns)
    width = max(MARGIN + columns * (TILE + MARGIN), 3 * (TILE + MARGIN) + MARGIN)
    tiles = Image.new("RGB", (width, rows * (tile_height + CAPTION + MARGIN)), _PAPER)
    present: set[int] = set()
    for index in range(number):
        x, y = MARGIN + index % columns * (TILE + MARGIN), index // columns * (tile_height + CAPTION + MARGIN)
        present |= _place(tiles, reader, index, (x, y), tile_height)
    names = legend(shards.manifest.labels, present, width=width - 2 * MARGIN, paper=_PAPER, ink=_INK)
    top = HEADING + names.height + MARGIN
    sheet = Image.new("RGB", (width, top + tiles.height), _PAPER)
    heading = shortened(_heading(shards, reader, number), width - 2 * MARGIN, 16)
    ImageDraw.Draw(sheet).text((MARGIN, 8), heading, fill=_INK, font_size=16)
    sheet.paste(names, (MARGIN, HEADING))
    sheet.paste(tiles, (0, top))
    with atomic_file(path, replace=overwrite) as handle:
        sheet.save(handle, "PNG")
    return number


def _tile_height(reader: SplitReader, number: int) -> int:
    """Return a height that shows every other image in full width; taller ones become narrower than the tile."""
    if reader.manifest.size:
        shape = reader.manifest.size[0] / reader.manifest.size[1]
    else:
        rows = reader.rows(np.arange(number))
        shape = float(np.quantile(rows["height"] / np.maximum(rows["width"], 1), 0.5))
    return round(TILE * min(max(shape, SHAPES[0]), SHAPES[1]))


def _place(tiles: Image.Image, reader: SplitReader, index: int, corner: tuple[int, int], tile_height: int) -> set[int]:
    """Draw a sample and its caption; return the indices that occur in its mask."""
    x, y = corner
    sample = small_sample(reader, index, (tile_height, TILE), enlarge=True)
    height, width = sample.indices.shape
    drawn = Image.fromarray(overlay(sample.image, sample.indices, reader.manifest.labels))
    tiles.paste(drawn, (x + (TILE - width) // 2, y + tile_height - height))
    row, draw = reader.rows([index])[0], ImageDraw.Draw(tiles)
    values = list(reader.attributes(index).values())[:_SHOWN_VALUES]
    details = ", ".join([*values, f"{row['height']} x {row['width']}"])
    lower = y + tile_height
    draw.text((x, lower + 3), shortened(reader.key(index), TILE, 12), fill=_INK, font_size=12)
    draw.text((x, lower + 18), shortened(details, TILE, 11), fill=_FAINT, font_size=11)
    return set(np.flatnonzero(sample.counts).tolist())


def _heading(shards: ShardSet, reader: SplitReader, number: int) -> str:
    manifest = shards.manifest
    size = f", {size_text(manifest.size)} pixels, {manifest.fit}" if manifest.size else ""
    return f"{shards.store.name}: {number} of {len(reader)} in {reader.name} ({manifest.storage}{size})"
