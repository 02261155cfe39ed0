"""What all figures share: names drawn as they are, colours that show on white paper, which classes to name."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from shards.errors import printable
from shards.format.labels import Labels
from shards.format.overlays import map_colours

Kind = Literal["png", "svg"]
Rgb = tuple[int, int, int]
MANY = 6  # more classes than this are not all named in a figure or a line of text
# For characters that matplotlib's own font lacks: of usual systems, those that have Chinese, Japanese and Korean ones.
FURTHER_FONTS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans SC", "Noto Sans JP", "Noto Sans KR", "Source Han Sans SC"),
    *("WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "IPAGothic", "NanumGothic"),
    *("Arial Unicode MS", "Hiragino Sans", "Hiragino Sans GB", "Apple SD Gothic Neo"),
)
_LIGHTEST = 170  # luminance, 0..255, of a line that shows on white paper


@contextlib.contextmanager
def plain_text() -> Iterator[None]:
    """Draw every text within the block as it is, in further fonts of the system where the first lacks a character.

    ``$`` starts no formula, and neither a missing glyph nor a missing font is a warning.
    """
    fonts = logging.getLogger("matplotlib.font_manager")
    before = fonts.level
    families = [*matplotlib.rcParams["font.family"], *FURTHER_FONTS]
    with matplotlib.rc_context({"text.parse_math": False, "font.family": families}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        fonts.setLevel(logging.ERROR)
        try:
            yield
        finally:
            fonts.setLevel(before)


def picture_bytes(figure: Figure, kind: Kind) -> bytes:
    """Return a figure as a PNG, or as an SVG to be embedded in HTML: without the XML prologue and a date."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
    data = buffer.getvalue()
    return data[data.index(b"<svg") :] if kind == "svg" else data


def shown_name(name: str, length: int = 28) -> str:
    """Return a class name for a figure: shortened, and without the leading underscore that hides it in a legend."""
    name = printable(name)
    short = name if len(name) <= length else f"{name[: length - 1]}…"
    return f" {short}" if short.startswith("_") else short


def map_colour(labels: Labels, index: int) -> Rgb:
    """Return the colour of a class in colour maps and legends."""
    red, green, blue = map_colours(labels)[index].tolist()
    return red, green, blue


def line_colour(labels: Labels, index: int) -> Rgb:
    """Return the colour of a class for lines and bars on white paper: its own, darkened if it is too light."""
    colour = map_colour(labels, index)
    luminance = float(np.dot(colour, (0.299, 0.587, 0.114)))
    scale = min(1.0, _LIGHTEST / max(luminance, 1.0))
    red, green, blue = (round(part * scale) for part in colour)
    return red, green, blue


def unit(colour: Rgb) -> tuple[float, float, float]:
    """Return a colour as matplotlib takes it: parts of 0..1."""
    red, green, blue = colour
    return red / 255, green / 255, blue / 255


def extremes(values: Sequence[float | None], each: int) -> tuple[list[int], list[int]]:
    """Return the positions of the ``each`` highest values, from the highest, and of the lowest, from the lowest.

    None counts as no value. No position is in both.
    """
    present = sorted((i for i, value in enumerate(values) if value is not None), key=lambda i: (-(values[i] or 0.0), i))
    best = present[:each]
    return best, present[each:][::-1][:each]


def ranks(count: int, key: Callable[[int], Any]) -> dict[int, int]:
    """Return the place, from 0, of each number below ``count`` in the order of a key."""
    return {index: rank for rank, index in enumerate(sorted(range(count), key=key))}


def floats(values: Sequence[float | None]) -> npt.NDArray[Any]:
    """Return numbers for a line: where there is None, the line has a gap."""
    return np.array([np.nan if value is None else value for value in values], dtype=float)
