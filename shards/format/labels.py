"""Which classes a set has: their names and colours, and the values that stand for them in the source's mask files.

Inside a set, a mask holds class indices 0..N-1 and :data:`IGNORE`. Labels stand in the manifest and in checkpoints;
nothing else knows a class.
"""

import colorsys
import re
import unicodedata
from functools import lru_cache
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from shards.errors import UsageError

IGNORE: Final = 255  # in a set's masks: the pixel counts nowhere
MAX_CLASSES: Final = 255
MAX_NAME: Final = 80  # characters
UNTINTED: Final = "#000000"  # overlays leave a class of this colour as it is

_COLOUR = re.compile(r"#[0-9a-f]{6}")
_GOLDEN = 0.6180339887498949  # steps of the golden ratio around the colour circle are far from all earlier ones


class LabelClass(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One class.

    Attributes:
        name: for people; unique.
        color: ``#rrggbb``, of overlays and palettes; :data:`UNTINTED` is not drawn in overlays.
        values: in the source's index masks, 0..255; predictions are written with the first.
        source_colors: in the source's RGB masks, ``#rrggbb``; predictions are written with the first.
    """

    name: str
    color: str
    values: tuple[int, ...] = ()
    source_colors: tuple[str, ...] = ()


class Labels(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The classes of a set in the order of their indices; see :func:`shards.format.label_files.find_labels`.

    Attributes:
        classes: 1 to 255; all with ``values``, or all with ``source_colors``.
        ignore: values in the source's masks that count nowhere.
        ignore_colors: likewise, colours in RGB masks.
        foreground: names of the classes that a foreground/background score counts as foreground; may be empty.
        boundary: names of the classes between foreground and background, such as the pets' border; may be empty.
    """

    classes: tuple[LabelClass, ...]
    ignore: tuple[int, ...] = ()
    ignore_colors: tuple[str, ...] = ()
    foreground: tuple[str, ...] = ()
    boundary: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes."""
        return tuple(each.name for each in self.classes)

    @property
    def rgb(self) -> bool:
        """Whether the source's masks are RGB images, not values."""
        return any(each.source_colors for each in self.classes)

    @property
    def palette(self) -> npt.NDArray[np.uint8]:
        """The colours of the classes, uint8 (N, 3)."""
        return np.array([colour_of(each.color) for each in self.classes], dtype=np.uint8).reshape(-1, 3)

    @property
    def tinted(self) -> npt.NDArray[np.bool_]:
        """Which classes overlays draw, bool (N,)."""
        return np.array([each.color != UNTINTED for each in self.classes])

    def indices(self, names: tuple[str, ...]) -> tuple[int, ...]:
        """Return the indices of classes, by name."""
        return tuple(self.names.index(name) for name in names)

    def check(self) -> None:
        """Raise ``UsageError`` for labels that contradict themselves; the message says what to change."""
        if not self.classes:
            raise UsageError("the labels name no class; add one [[class]] with a name and a value for each")
        if len(self.classes) > MAX_CLASSES:
            raise UsageError(f"the labels name {len(self.classes)} classes; at most {MAX_CLASSES} are possible")
        composed = [unicodedata.normalize("NFC", name) for name in self.names]
        for name, form in zip(self.names, composed, strict=True):
            if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
                raise UsageError(f"class name {name[:100]!r}: give 1 to {MAX_NAME} printable characters")
            if composed.count(form) > 1:
                raise UsageError(f"two classes are named {name!r}; give each its own name")
        self._check_sources()
        for what, chosen in (("foreground", self.foreground), ("boundary", self.boundary)):
            for name in chosen:
                if name not in self.names:
                    raise UsageError(f"{what} names {name!r}, which is no class; the classes: {', '.join(self.names)}")
        if set(self.foreground) & set(self.boundary):
            raise UsageError("a class is both foreground and boundary; choose one")
        if self.boundary and not self.foreground:
            raise UsageError("boundary is given without foreground; name the foreground classes, too")

    def _check_sources(self) -> None:
        """Every class has values, or every class has colours; none of them belongs to two."""
        owners: dict[int | str, str] = {}
        drawn: dict[str, str] = {}
        for each in self.classes:
            if each.color != UNTINTED and drawn.setdefault(each.color, each.name) != each.name:
                raise UsageError(
                    f"classes {drawn[each.color]!r} and {each.name!r} both have color {each.color}; give each its "
                    "own, or overlays cannot tell them apart"
                )
            if _COLOUR.fullmatch(each.color) is None:
                raise UsageError(f"class {each.name!r}: color {each.color!r} is not written as #rrggbb")
            if each.values and self.rgb:
                raise UsageError(
                    f"class {each.name!r} has a value, and others have only colours: index masks need a value for "
                    "every class, RGB masks a color for every class and no value"
                )
            if not each.values and not each.source_colors:
                raise UsageError(f"class {each.name!r} has no value; give value = N, or color for RGB masks")
            _claim(owners, [*each.values, *each.source_colors], f"class {each.name!r}")
        if self.ignore and self.rgb:
            raise UsageError('ignore: masks whose classes are given by colours ignore colours, such as "#000000"')
        if self.ignore_colors and not self.rgb:
            raise UsageError("ignore: masks whose classes are given by values ignore values, such as 255")
        _claim(owners, [*self.ignore, *self.ignore_colors], "ignore")

    def index_table(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Return, for each value 0..255 of the source's masks, the class index or IGNORE, and whether it is claimed.

        Uint8 (256,) and bool (256,); for labels that are not ``rgb``.
        """
        table, claimed = np.full(256, IGNORE, dtype=np.uint8), np.zeros(256, dtype=bool)
        for index, each in enumerate(self.classes):
            table[list(each.values)] = index
            claimed[list(each.values)] = True
        claimed[list(self.ignore)] = True
        return table, claimed

    def colour_table(self) -> npt.NDArray[np.int16]:
        """Return, for each packed colour (r << 16 | g << 8 | b), the class index, IGNORE, or -1 where unclaimed.

        Int16 (2**24,), 32 MiB, read-only and shared; for labels that are ``rgb``.
        """
        return _colour_table(self)

    @property
    def source_values(self) -> npt.NDArray[np.uint8]:
        """What predictions write for each class into index masks, uint8 (N,); for labels that are not ``rgb``."""
        return np.array([each.values[0] for each in self.classes], dtype=np.uint8)

    @property
    def source_palette(self) -> npt.NDArray[np.uint8]:
        """The colours that predictions write for each class: those of RGB masks, else the palette's; uint8 (N, 3)."""
        if not self.rgb:
            return self.palette
        return np.array([colour_of(each.source_colors[0]) for each in self.classes], dtype=np.uint8)


def colour_of(text: str) -> tuple[int, int, int]:
    """Return (red, green, blue), 0..255, of ``#rrggbb``."""
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def colour_text(colour: tuple[int, int, int] | npt.NDArray[np.uint8]) -> str:
    """Return a colour (red, green, blue) as ``#rrggbb``."""
    return "#" + "".join(f"{int(part):02x}" for part in colour)


def chosen_colour(number: int) -> str:
    """Return the colour of the class with this number where the labels give none: far from those before it."""
    hue, ring = (number * _GOLDEN + 0.9) % 1, number // 12 % 3
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.78, 0.5, 0.95)[ring], (0.88, 0.98, 0.62)[ring])
    return colour_text((round(255 * red), round(255 * green), round(255 * blue)))


def _claim(owners: dict[int | str, str], sources: list[int | str], owner: str) -> None:
    """Note that values or colours belong to a class or are ignored; raise ``UsageError`` if one cannot."""
    for source in sources:
        if isinstance(source, int) and not 0 <= source <= 255:
            raise UsageError(f"{owner}: value {source} is outside 0..255")
        if isinstance(source, str) and _COLOUR.fullmatch(source) is None:
            raise UsageError(f"{owner}: color {source!r} is not written as #rrggbb")
        if source in owners:
            what = "value" if isinstance(source, int) else "color"
            twice = f"{owners[source]} and {owner} both have" if owners[source] != owner else f"{owner} has twice"
            raise UsageError(f"{twice} {what} {source}; each {what} stands for one class")
        owners[source] = owner


@lru_cache(maxsize=2)
def _colour_table(labels: Labels) -> npt.NDArray[np.int16]:
    table = np.full(1 << 24, -1, dtype=np.int16)
    for colour in labels.ignore_colors:
        table[int(colour[1:], 16)] = IGNORE
    for index, each in enumerate(labels.classes):
        for colour in each.source_colors:
            table[int(colour[1:], 16)] = index
    table.flags.writeable = False
    return table
