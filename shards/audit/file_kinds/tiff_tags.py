"""The numbers in the first directory of a TIFF file: what Pillow would not say of a file that it refuses.

Source: TIFF 6.0, section 2.
"""

import struct
from typing import Final

BITS_PER_SAMPLE: Final = 258
COMPRESSION: Final = 259
SAMPLES_PER_PIXEL: Final = 277
TILE_WIDTH: Final = 322
TILE_LENGTH: Final = 323

# JPEG (old and new, of microscopes: three kinds), JPEG 2000, LERC, JPEG of DNG, WebP, JPEG XL: any may be lossy.
LOSSY: Final = frozenset({6, 7, 33003, 33004, 33005, 33007, 34712, 34887, 34892, 50001, 50002, 52546})

_MARKS = {b"II*\0": "<", b"MM\0*": ">"}
# BYTE, SHORT, LONG; and what only readers take for whole numbers here: signed ones, and those of a BigTIFF.
_TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q"}
_MOST_VALUES = 16


def is_tiff(data: bytes) -> bool:
    """Return whether a file starts like a TIFF (but no BigTIFF)."""
    return data[:4] in _MARKS


def read_tags(data: bytes) -> dict[int, tuple[int, ...]]:
    """Return the values of each tag that holds a few whole numbers; those that cannot be read are left out.

    Of a tag that occurs twice, all values: which ones count is another question for each reader.
    """
    order = _MARKS[data[:4]]
    tags: dict[int, tuple[int, ...]] = {}
    try:
        (directory,) = struct.unpack_from(order + "I", data, 4)
        (entries,) = struct.unpack_from(order + "H", data, directory)
        for at in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(order + "HHI", data, at)
            if kind in _TYPES and 1 <= count <= _MOST_VALUES:
                values = f"{order}{count}{_TYPES[kind]}"
                inline = struct.calcsize(values) <= 4
                place = at + 8 if inline else struct.unpack_from(order + "I", data, at + 8)[0]
                tags[tag] = tags.get(tag, ()) + struct.unpack_from(values, data, place)
    except struct.error:
        pass  # it ends early: Pillow reports that
    return tags
