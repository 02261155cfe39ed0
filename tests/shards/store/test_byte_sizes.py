"""Numbers of bytes as text."""

from __future__ import annotations

from typing import Any

import pytest

from shards.errors import UsageError
from shards.store.byte_sizes import bytes_text, parse_bytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (0, 0), (4096, 4096), ("4096", 4096), ("7 B", 7), ("256MB", 256_000_000), ("256 mb", 256_000_000),
        ("1GiB", 2**30), ("1.5GiB", 3 * 2**29), ("0.3kB", 300), ("0.1 KiB", 102), (" 2TB ", 2 * 10**12),
    ],
)  # fmt: skip
def test_texts(text: Any, expected: int) -> None:
    assert parse_bytes(text, name="x") == expected


@pytest.mark.parametrize(
    "text", ["", "MB", "-1", -1, "1e6", "1,5GB", "1.GB", "1 PB", "1 M", True, None, 1.5, "\u0663", "1" * 30]
)
def test_what_is_no_number_of_bytes(text: Any) -> None:
    with pytest.raises(UsageError, match=r"x=.*give a number of bytes"):
        parse_bytes(text, name="x")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"), (1, "1 byte"), (999, "999 bytes"), (1000, "1.0 kB"), (45_149, "45.1 kB"),
        (999_000, "999.0 kB"), (10**6, "1.0 MB"), (813_000_000, "813.0 MB"), (1_203 * 10**12, "1,203 TB"),
    ],
)  # fmt: skip
def test_sizes_for_people(count: int, text: str) -> None:
    assert bytes_text(count) == text
