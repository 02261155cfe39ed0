"""Which byte of a damaged piece is wrong, where its checksum allows to say so: one byte changed, as by a flipped bit.

CRC-32 is linear: the checksums of two texts of equal length differ by what depends on the difference of the texts only.
If one byte differs, that is a table's entry for the difference of the two values, shifted by as many zero bytes as
follow it; so it is shifted back until it is an entry of the table.
"""

from typing import Any, Final

import numpy as np

from shards.format.layout import CHECK_MULTIPLIERS, Rows, row_check

MOST: Final = 1 << 24  # bytes: longer pieces would take seconds
_MASK: Final = (1 << 64) - 1


def _crc_table() -> tuple[int, ...]:
    entries = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ 0xEDB88320 * (value & 1)  # noqa: PLW2901 - the polynomial of zlib's CRC-32, reflected
        entries.append(value)
    return tuple(entries)


_TABLE: Final = _crc_table()
_VALUE_OF: Final = {entry: value for value, entry in enumerate(_TABLE)}
_INDEX_OF_TOP: Final = {entry >> 24: value for value, entry in enumerate(_TABLE)}


def wrong_byte(data: bytes, *, found: int, expected: int) -> tuple[int, int] | None:
    """Return (position, right value) of the only byte by which data could have got another CRC-32 than it should have.

    None if there is no such byte, several could be meant, or the data is longer than :data:`MOST`. More than one byte
    may have changed all the same: of those pieces, one in 2^24 / length is taken for a single byte.
    """
    difference, places = found ^ expected, []
    if len(data) > MOST:
        return None
    for position in range(len(data) - 1, -1, -1):
        value = _VALUE_OF.get(difference)
        if value is not None:
            places.append((position, data[position] ^ value))
        index = _INDEX_OF_TOP[difference >> 24]  # of the entry that the shift of a zero byte would have added
        difference = (difference ^ _TABLE[index]) << 8 & 0xFFFFFFFF | index
    return places[0] if len(places) == 1 else None


def wrong_byte_of_record(record: Any) -> int | None:
    """Return the position of the only byte of a sample's record that could make its ``check`` right; None if none is.

    A changed word adds its change times its multiplier to the sum, and multipliers are odd, so that there is one value
    of each word that makes the sum right; in the damaged word it differs from the one found by a single byte, in others
    hardly ever. Only of the upper bytes, which change few bits of the sum, may several words be meant.
    """
    rows: Rows = np.array([record])
    words = [int(word) for word in rows.view("<u8")]
    missing = words[-1] - int(row_check(rows)[0]) & _MASK
    checked = zip(words[:-1], CHECK_MULTIPLIERS, strict=True)
    right = [word + missing * pow(factor, -1, 1 << 64) & _MASK for word, factor in checked]
    right.append(words[-1] - missing & _MASK)
    places = []
    for number, (word, wanted) in enumerate(zip(words, right, strict=True)):
        changed = [position for position, value in enumerate((word ^ wanted).to_bytes(8, "little")) if value]
        if len(changed) == 1:
            places.append(8 * number + changed[0])
    return places[0] if len(places) == 1 else None
