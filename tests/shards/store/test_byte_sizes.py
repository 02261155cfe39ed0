"""Numbers of bytes as text."""

from __future__ import annotations

from typing import Any

import pytest

from shards.errors import UsageError
from shards.store.byte_sizes import parse_bytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (0, 0), (4096, 4096), ("4096", 4096), ("7 B", 7), ("256MB", 256_000_000), ("256 mb", 256_000_000),
        ("1GiB", 2**30), ("1.5GiB", 3 * 2**29), ("0.3kB", 300), ("0.1 KiB", 102), (" 2TB ", 2 * 10**12),
    ],
)  # fmt: skip
def test_texts(text: Any, expected: int) -> None:
    assert parse_bytes(text, name="--x") == expected


@pytest.mark.parametrize(
    "text", ["", "MB", "-1", -1, "1e6", "1,5GB", "1.GB", "1 PB", "1 M", True, None, 1.5, "\u0663", "1" * 30]
)
def test_what_is_no_number_of_bytes(text: Any) -> None:
    with pytest.raises(UsageError, match=r"--x .*give a number of bytes"):
        parse_bytes(text, name="--x")
