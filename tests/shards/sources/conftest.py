"""What the tests of layouts share; a scan opens no image, so files may hold anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Put = Callable[..., Path]


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
