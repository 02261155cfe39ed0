"""Palettes of masks: whether the same value has the same colour in all of them.

Values are what count, not colours. But where a program chose every palette anew, a value stands for another class in
each mask, and nothing but the palettes shows it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shards.audit.png_chunks import PALETTE, SIGNATURE
from shards.audit.transcode import file_palette
from shards.errors import counted
from shards.format.labels import colour_text

_MOST_COLOURS: Final = 64  # of one value that are counted
_COLOUR_TYPE: Final = 25  # where a PNG says whether it has a palette
_SHOWN_COLOURS: Final = 3


@dataclass
class PaletteTally:
    """In how many masks each value that occurs has which palette colour; ``masks``: how many have a palette."""

    masks: int = 0
    colours: dict[int, Counter[str]] = field(default_factory=dict)

    def add(self, palette: Mapping[int, str]) -> None:
        """Count a mask by the colours of its values; one without palette does not count."""
        self.masks += bool(palette)
        for value, colour in palette.items():
            self._count(value, {colour: 1})

    def merge(self, masks: int, colours: Mapping[int, Mapping[str, int]]) -> None:
        """Add another tally."""
        self.masks += masks
        for value, counts in colours.items():
            self._count(value, counts)

    @property
    def disagreeing(self) -> dict[int, dict[str, int]]:
        """Masks by colour, the most frequent first, of every value that has several colours."""
        return {
            value: dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
            for value, counts in sorted(self.colours.items())
            if len(counts) > 1
        }

    def json(self) -> dict[str, Any] | None:
        """Return the values whose colours differ as a JSON object; None if there are none."""
        values = {str(value): counts for value, counts in self.disagreeing.items()}
        return {"masks": self.masks, "values": values} if values else None

    def text(self) -> str:
        """Return a line that says that palettes disagree, and how; "" if they do not."""
        found = self.disagreeing
        if not found:
            return ""
        value, counts = next(iter(found.items()))
        (first, masks), *others = list(counts.items())[:_SHOWN_COLOURS]
        listed = [f"{first} in {counted(masks, 'mask')}", *(f"{c} in {n:,}" for c, n in others)]
        colours = ", ".join(listed) + (", ..." if len(counts) > _SHOWN_COLOURS else "")
        rest = f" ({len(found) - 1} more such {'index' if len(found) == 2 else 'indexes'})" if len(found) > 1 else ""
        return (
            f"the palettes of {self.masks:,} masks disagree: index {value} is {colours}{rest}; "
            "the values then may mean different classes"
        )

    def _count(self, value: int, counts: Mapping[str, int]) -> None:
        own = self.colours.setdefault(value, Counter())
        for colour, masks in counts.items():
            if colour in own or len(own) < _MOST_COLOURS:
                own[colour] += masks


def palette_of(data: bytes, values: Iterable[int]) -> dict[int, str]:
    """Return the colours that the palette of a mask, which decodes, gives to these values; empty if it has none.

    One whose colour i is (i, i, i) is none, either: that is how programs store grey images.
    """
    colours = _colours(data)
    last = max(np.flatnonzero(colours.any(axis=1)), default=-1)  # formats fill palettes up with black
    if all((colour == index).all() for index, colour in enumerate(colours[: last + 1])):
        return {}
    return {value: colour_text(colours[value]) for value in values if value < len(colours)}


def is_indexed(data: bytes) -> bool:
    """Return whether a mask, which decodes, has a palette, be it one of greys."""
    return has_palette(data) and bool(len(_colours(data)))


def has_palette(data: bytes) -> bool:
    """Return False for a PNG without palette, which needs no second look; True for whatever may have one."""
    return not data.startswith(SIGNATURE) or data[_COLOUR_TYPE : _COLOUR_TYPE + 1] == bytes([PALETTE])


def _colours(data: bytes) -> npt.NDArray[np.uint8]:
    parts = _png_palette(data) if data.startswith(SIGNATURE) else file_palette(data)
    return np.frombuffer(parts, dtype=np.uint8)[: len(parts) // 3 * 3].reshape(-1, 3)


def _png_palette(data: bytes) -> bytes:
    position = len(SIGNATURE)
    while has_palette(data) and position + 8 <= len(data):
        length, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        if kind == b"PLTE":
            return data[position + 8 : position + 8 + length]
        position += 12 + length
    return b""
