"""What the tests of layouts share; a scan opens no image, so files may hold anything."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from shards.sources.synthetic import generate

Put = Callable[..., Path]


@pytest.fixture(scope="module")
def drawn_once() -> Iterator[None]:
    """An image of the synthetic dataset is drawn once, however many layouts it is then written in."""
    draw, drawn = generate.draw_image, dict[int, Any]()

    def draw_or_recall(breed: Any, bank: Any, rng: Any) -> Any:
        start = rng.bit_generator.state["state"]["state"]  # of the dataset's seed and the image's number
        if start not in drawn:
            drawn[start] = draw(breed, bank, rng), rng.bit_generator.state
        image_and_mask, rng.bit_generator.state = drawn[start]
        return image_and_mask

    with (
        mock.patch.object(generate, "draw_image", draw_or_recall),
        mock.patch.object(generate, "TextureBank", functools.cache(generate.TextureBank)),
    ):
        yield


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """Write files, by their paths below the folder ``data`` ("a/b.png", or "list.txt=its text"); return the folder."""

    def write(*paths: str) -> Path:
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        for path in paths:
            name, _, text = path.partition("=")
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((text or "x").encode("utf-8", "surrogateescape"))
        return folder

    return write
