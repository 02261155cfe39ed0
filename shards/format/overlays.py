"""How classes are drawn: over an image, as a colour map, as a mask file in the source's own values, and in a legend."""

import math
from collections.abc import Iterable
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from shards.format.labels import IGNORE, Labels, colour_of

Pixels: TypeAlias = npt.NDArray[np.uint8]
Rgb: TypeAlias = tuple[int, int, int]

TINT: Final = 115  # of 256: the weight of a class's colour over the image
HATCH: Final = (70, 165)  # of 256: the weights of IGNORED_COLOUR over ignored pixels, beside and on the stripes
IGNORED_COLOUR: Final[Rgb] = (214, 214, 206)  # light, nearly grey: no class is likely to have it
DARK: Final[Rgb] = (43, 48, 54)  # of untinted classes in colour maps: visible on white paper and on black
INK: Final[Rgb] = (30, 30, 30)
PAPER: Final[Rgb] = (255, 255, 255)
STRIP_PIXELS: Final = 2_000_000  # what is drawn at a time: an image of 2^28 pixels needs little memory beside its own
_STRIPE: Final = 4  # pixels, times the width of an outline


def overlay(image: Pixels, indices: Pixels, labels: Labels, *, wide: int | None = None) -> Pixels:
    """Tint and outline the classes of a mask over an image.

    Classes of the colour :data:`shards.format.labels.UNTINTED` stay as they are; ignored pixels are hatched in a light
    grey. Outlines lie inside their class, where it touches another one, and are as wide as :func:`outline_width` says.

    Args:
        image: uint8 (H, W, 3).
        indices: class indices 0..N-1 and IGNORE, uint8 (H, W).
        labels: of these indices.
        wide: width of outlines in pixels, for a part of a larger image; None for that of an image of this size.

    Returns:
        uint8 (H, W, 3), a new array.
    """
    height, width = indices.shape
    wide = outline_width(height, width) if wide is None else wide
    colours, weights = np.zeros((256, 3), dtype=np.uint16), np.zeros(256, dtype=np.uint16)
    colours[: len(labels)], weights[: len(labels)] = labels.palette, TINT * labels.tinted
    colours[IGNORE] = IGNORED_COLOUR
    outlined = np.zeros(256, dtype=np.bool_)
    outlined[: len(labels)] = labels.tinted
    columns = np.arange(width)
    drawn = np.empty_like(image)
    rows = max(1, STRIP_PIXELS // max(width, 1))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        above = min(top, wide)  # rows of the strip before, where an outline may have its reason
        strip = indices[top - above : bottom + wide]
        classes = strip[above : above + bottom - top]
        weight = weights[classes]
        weight[outlined[classes] & _edges(strip, wide)[above : above + bottom - top]] = 256
        ignored = classes == IGNORE
        if ignored.any():
            stripes = (np.arange(top, bottom)[:, None] + columns) // (_STRIPE * wide) % 2
            weight[ignored] = np.array(HATCH, dtype=np.uint16)[stripes[ignored]]
        for channel in range(3):
            before = image[top:bottom, :, channel].astype(np.uint16)
            # At most 255 * 256 + 128, which uint16 holds; a weight of 0 keeps a value, one of 256 replaces it.
            drawn[top:bottom, :, channel] = (before * (256 - weight) + colours[classes, channel] * weight + 128) >> 8
    return drawn


def outline_width(height: int, width: int) -> int:
    """Return the width of outlines in an image of this size, in pixels: 1 up to about a megapixel, then more."""
    return max(1, round(math.sqrt(height * width) / 700))


def colour_map(indices: Pixels, labels: Labels) -> Pixels:
    """Return class indices (H, W) in the classes' colours, uint8 (H, W, 3).

    Untinted classes are :data:`DARK` and ignored pixels :data:`IGNORED_COLOUR`.
    """
    return map_colours(labels)[indices]


def map_colours(labels: Labels) -> Pixels:
    """Return the colour of each index in colour maps and legends, uint8 (256, 3); of no class: as if ignored."""
    table = np.empty((256, 3), dtype=np.uint8)
    table[:] = IGNORED_COLOUR
    table[: len(labels)] = np.where(labels.tinted[:, None], labels.palette, np.array(DARK, dtype=np.uint8))
    return table


def indexed_mask(indices: Pixels, labels: Labels) -> Image.Image:
    """Return a mask of class indices, uint8 (H, W), as the source's own masks are written.

    For labels given by values: a palette image (mode P, 8 bits) whose pixels are the classes' first values and whose
    palette shows each value in its class's colour. For labels given by colours: an RGB image in the classes' first
    colours. Ignored pixels take the first value (or colour) that the labels ignore.

    Raises ``ValueError`` for an index that is no class, and for ignored pixels where the labels ignore nothing.
    """
    present = occurring(indices)
    ignores = bool(labels.ignore_colors if labels.rgb else labels.ignore)
    wrong = [index for index in present if index >= len(labels) and not (index == IGNORE and ignores)]
    if wrong:
        raise ValueError(f"the mask has index {wrong[0]}, which none of the {len(labels)} classes has")
    if labels.rgb:
        colours = np.zeros((256, 3), dtype=np.uint8)
        colours[: len(labels)] = labels.source_palette
        if labels.ignore_colors:
            colours[IGNORE] = colour_of(labels.ignore_colors[0])
        return Image.fromarray(colours[indices])
    values, palette = np.zeros(256, dtype=np.uint8), np.zeros((256, 3), dtype=np.uint8)
    values[: len(labels)] = labels.source_values
    for each, colour in zip(labels.classes, labels.palette, strict=True):
        palette[list(each.values)] = colour
    if labels.ignore:
        values[IGNORE] = labels.ignore[0]
        palette[list(labels.ignore)] = IGNORED_COLOUR
    image = Image.fromarray(values[indices])
    image.putpalette(palette.tobytes())  # of 256 colours, so that the file has 8 bits per pixel, too
    return image


def occurring(indices: Pixels) -> list[int]:
    """Return which indices occur in a mask, uint8 (H, W); strip by strip, as a count takes 8 bytes per pixel."""
    counts = np.zeros(256, dtype=np.int64)
    rows = max(1, STRIP_PIXELS // max(indices.shape[1], 1))
    for top in range(0, indices.shape[0], rows):
        counts += np.bincount(indices[top : top + rows].reshape(-1), minlength=256)
    return [int(index) for index in np.flatnonzero(counts)]


def legend(
    labels: Labels,
    present: Iterable[int],
    *,
    width: int,
    font_size: int = 13,
    paper: Rgb = PAPER,
    ink: Rgb = INK,
) -> Image.Image:
    """Draw the colours and names of some classes, in columns where one row does not hold them.

    Args:
        labels: the classes.
        present: indices of those to draw, those that occur; IGNORE is drawn last, as "ignored".
        width: of the legend, pixels; a longer name is shortened.
        font_size: of the names, pixels.
        paper: background.
        ink: colour of the names.

    Returns:
        An RGB image of this width, as high as it needs; at least one row.
    """
    chosen = sorted(set(present))
    swatch, gap, row = round(1.2 * font_size), round(1.2 * font_size), round(1.6 * font_size)
    font = ImageFont.load_default(font_size)
    names = [labels.names[index] if index < len(labels) else "ignored" for index in chosen]
    names = [shortened(name, width - swatch - gap, font_size) for name in names]
    widths = [swatch + gap // 3 + round(font.getlength(name)) + gap for name in names]
    if sum(widths) <= width:
        places = [(sum(widths[:number]), 0) for number in range(len(names))]
    else:
        columns = max(1, width // max(widths))
        rows = -(-len(names) // columns)  # read downwards, like a table of contents
        places = [(number // rows * (width // columns), number % rows * row) for number in range(len(names))]
    drawn = Image.new("RGB", (width, max([y for _, y in places], default=0) + row), paper)
    draw = ImageDraw.Draw(drawn)
    colours = map_colours(labels)
    for index, name, (x, y) in zip(chosen, names, places, strict=True):
        red, green, blue = colours[index].tolist()
        box = (x, y + (row - swatch) // 2, x + swatch - 1, y + (row - swatch) // 2 + swatch - 1)
        draw.rectangle(box, fill=(red, green, blue), outline=(110, 110, 110))
        draw.text((x + swatch + gap // 3, y + row // 2), name, fill=ink, font=font, anchor="lm")
    return drawn


def shortened(text: str, width: int, font_size: int) -> str:
    """Return the text, cut and ended by dots where it would be wider than ``width`` pixels in Pillow's own font."""
    font = ImageFont.load_default(font_size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _edges(indices: Pixels, wide: int) -> npt.NDArray[np.bool_]:
    """Return the pixels that have a pixel of another index above, below, left or right, at most ``wide`` away."""
    edges = np.zeros(indices.shape, dtype=np.bool_)
    for distance in range(1, wide + 1):
        down, right = indices[distance:] != indices[:-distance], indices[:, distance:] != indices[:, :-distance]
        edges[distance:] |= down
        edges[:-distance] |= down
        edges[:, distance:] |= right
        edges[:, :-distance] |= right
    return edges
