"""The same image in two splits, in tars that may have been damaged since their shards were built."""

from __future__ import annotations

import json

import numpy as np
import pytest

from shards.audit.duplicates import duplicates_across_splits
from shards.errors import FormatError
from shards.format.layout import SAMPLE_DTYPE, Split

IMAGE = b"image"


def found(meta: bytes, *, other: bytes = IMAGE) -> list[tuple[str, str | None, str]]:
    """What is found where train and test have one sample each, of the same checksum and length."""
    row = np.zeros(1, SAMPLE_DTYPE)
    row["image_length"], row["meta_length"] = len(IMAGE), len(meta)
    row["image_offset"], row["meta_offset"] = 0, 1000

    def read(split: Split, number: int, offset: int, length: int) -> bytes:
        return meta if offset >= 1000 else other if split == "test" else IMAGE

    found = duplicates_across_splits(read, {"train": row, "test": row})
    return [(each.name, each.split, each.detail) for each in found]


def test_only_equal_bytes_are_the_same_image() -> None:
    assert found(b'{"name": "cat"}') == [
        ("cat", "test", "the same image as cat in train"),
        ("cat", "train", "the same image as cat in test"),
    ]
    assert not found(b"", other=b"imagE")


def test_of_many_that_are_the_same_each_names_a_few() -> None:
    """Black tiles: if each named all others, the audit file would grow with the square of their number."""
    tables: dict[Split, np.ndarray] = {}
    for split, count in (("train", 90), ("test", 10)):
        tables[split] = rows = np.zeros(count, SAMPLE_DTYPE)
        rows["image_length"], rows["meta_offset"] = len(IMAGE), 1000 + np.arange(count)

    def read(split: Split, number: int, offset: int, length: int) -> bytes:
        return json.dumps({"name": f"{split}{offset - 1000}"}).encode() if offset >= 1000 else IMAGE

    details = {each.name: each.detail for each in duplicates_across_splits(read, tables)}
    first = "test0 in test, test1 in test, test2 in test, test3 in test"
    assert len(details) == 100
    assert details["train7"] == f"the same image as {first}, test4 in test and 94 more"
    assert details["test4"] == f"the same image as {first}, test5 in test and 94 more"


@pytest.mark.parametrize(
    "meta",
    [b"", b"{", b"[1]", b"{}", b"\xff", b"[" * 100_000],
    ids=["nothing", "half", "list", "nameless", "no text", "deep"],
)
def test_a_description_that_is_damaged(meta: bytes) -> None:
    with pytest.raises(FormatError, match=r"a shard of (test|train) has been damaged since it was built"):
        found(meta)
