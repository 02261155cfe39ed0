"""Forged manifests: any value in any field, with a correct checksum and fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from shards.format.labels import Labels
from shards.format.manifest import content_fingerprint


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value, containers too."""
    if path:
        yield path
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        yield from places(value, (*path, key))


def sealed(document: dict[str, Any]) -> bytes:
    """The bytes of a manifest with its correct checksum; see docs/formats.md."""
    empty = {**document, "checksum": ""}
    text = json.dumps(empty, indent=1, ensure_ascii=True) + "\n"
    return (
        json.dumps({**document, "checksum": hashlib.sha256(text.encode()).hexdigest()}, indent=1, ensure_ascii=True)
        + "\n"
    ).encode()


def reseal_shards(
    folder: Path, document: dict[str, Any], split: str, change: Callable[[np.ndarray], np.ndarray | None]
) -> None:
    """Change the table of a split's shards (or return another), and let the manifest describe the new one."""
    entry = document["splits"][split]
    path = folder / f"{split}.shards.npy"
    records = np.load(path)
    changed = change(records)
    records = records if changed is None else changed
    np.save(path, records)
    entry["shards"] = len(records)
    entry["shard_table"]["bytes"] = path.stat().st_size
    entry["shard_table"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()


def with_fingerprint(document: dict[str, Any]) -> dict[str, Any]:
    """The document with its correct fingerprint, if one can be computed."""

    class Entry:
        def __init__(self, fields: dict[str, Any]) -> None:
            tables = ("table", "shard_table")
            self.__dict__.update({key: Entry(value) if key in tables else value for key, value in fields.items()})

    try:
        splits: Any = {name: Entry(split) for name, split in document["splits"].items()}
        size = document["size"] and tuple(document["size"])
        labels = msgspec.convert(document["labels"], Labels)
        found = content_fingerprint(storage=document["storage"], size=size, labels=labels, splits=splits)
    except (AttributeError, KeyError, TypeError, ValueError, msgspec.ValidationError):
        return document
    return {**document, "fingerprint": found}
