"""Where the one wrong byte of a damaged piece is, by its checksum."""

from __future__ import annotations

import zlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shards.format.layout import SAMPLE_DTYPE, row_check
from shards.verify import locate
from shards.verify.locate import wrong_byte, wrong_byte_of_record


@given(data=st.binary(min_size=1, max_size=300), place=st.integers(0, 299), change=st.integers(1, 255))
def test_one_wrong_byte_is_found_by_its_checksum(data: bytes, place: int, change: int) -> None:
    place %= len(data)
    damaged = data[:place] + bytes([data[place] ^ change]) + data[place + 1 :]
    assert wrong_byte(damaged, found=zlib.crc32(damaged), expected=zlib.crc32(data)) == (place, data[place])


@given(data=st.binary(min_size=8, max_size=300), places=st.sets(st.integers(0, 299), min_size=2, max_size=9))
def test_several_wrong_bytes_are_not_taken_for_one(data: bytes, places: set[int]) -> None:
    damaged = bytearray(data)
    for place in {place % len(data) for place in places}:
        damaged[place] ^= 1 + place % 200
    found = wrong_byte(bytes(damaged), found=zlib.crc32(damaged), expected=zlib.crc32(data))
    changed = [place for place, (x, y) in enumerate(zip(damaged, data, strict=True)) if x != y]
    assert found is None if len(changed) > 1 else found == (changed[0], data[changed[0]])


def test_of_long_data_nothing_is_said() -> None:
    data = bytes(locate.MOST + 1)
    assert wrong_byte(data, found=1, expected=2) is None


@given(record=st.binary(min_size=80, max_size=80), place=st.integers(0, 79), change=st.integers(1, 255))
def test_one_wrong_byte_of_a_record_is_found_by_its_checksum(record: bytes, place: int, change: int) -> None:
    """In the upper half of a word, two words may explain the same sum; then nothing is said."""
    rows = np.frombuffer(record, SAMPLE_DTYPE).copy()
    rows["check"] = row_check(rows)
    assert wrong_byte_of_record(rows[0]) is None
    damaged = bytearray(rows.tobytes())
    damaged[place] ^= change
    found = wrong_byte_of_record(np.frombuffer(bytes(damaged), SAMPLE_DTYPE)[0])
    assert found == place or (found is None and place % 8 > 3)
