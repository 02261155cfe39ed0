"""Loaders over sets in the servers of store_servers: what they deliver, and sets that differ from their manifests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from store_servers import BUCKET

from pipeline import Batch, Loader
from shards import ShardSet
from shards.store.open_store import open_store

Batches = list[tuple[bytes, bytes, bytes]]
OPTIONS: dict[str, Any] = {
    "split": "train",
    "batch_size": 4,
    "size": 32,
    "device": "cpu",
    "augment": "train",
    "seed": 3,
}


def batch_bytes(batch: Batch) -> tuple[bytes, bytes, bytes]:
    return batch.index.numpy().tobytes(), batch.image.numpy().tobytes(), batch.mask.numpy().tobytes()


def batches(loader: Loader, epochs: int = 1) -> Batches:
    return [batch_bytes(batch) for _ in range(epochs) for batch in loader]


def replaced(folder: Path, out: str, change: Callable[[Path], None], tmp_path: Path) -> str:
    """Upload a set, one tar of which ``change`` has changed, and return its address."""
    copy = tmp_path / "changed"
    shutil.copytree(folder, copy)
    change(copy)
    store = open_store(f"s3://{BUCKET}/{out}")
    for path in copy.iterdir():
        store.put(path.name, path)
    return store.address


def flip(position: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        row = ShardSet.open(folder).split("train").table[0]
        with (folder / "train-000000.tar").open("r+b") as file:
            file.seek(int(row["image_offset"]) + position)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 4]))

    return change
