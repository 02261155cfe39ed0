"""What a shard set is, and what a training run will see of it."""

from __future__ import annotations

from typing import Any

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from shards.audit.findings import REASONS
from shards.errors import UsageError
from shards.format.dataset import ShardSet
from shards.format.layout import SPLITS
from shards.format.manifest import SplitEntry


def describe(shards: ShardSet, *, batch_size: int, world_size: int) -> dict[str, Any]:
    """Return everything that ``petseg-shard info`` tells, as a JSON object.

    Args:
        shards: an opened set.
        batch_size: the global batch, all ranks together.
        world_size: number of ranks; must divide ``batch_size``.

    Raises:
        UsageError: it does not.
    """
    if batch_size % world_size:
        raise UsageError(
            f"--batch-size {batch_size} (all ranks together) cannot be shared by --world-size {world_size}; "
            f"use a multiple of {world_size}"
        )
    manifest = shards.manifest
    return {
        "path": str(shards.path),
        "storage": manifest.storage,
        "size": manifest.size,
        "largest": {"width": manifest.largest[0], "height": manifest.largest[1]},
        "samples": manifest.samples,
        "bytes": sum(entry.bytes for entry in manifest.files()),
        "classes": list(manifest.classes),
        "splits": {
            name: _split(manifest.splits[name], manifest.classes, batch_size)
            for name in SPLITS
            if name in manifest.splits
        },
        "training": {"batch_size": batch_size, "world_size": world_size, "batch_per_rank": batch_size // world_size},
        "audit": {key: value for key, value in msgspec.to_builtins(manifest.audit).items() if key != "quarantine"},
        "options": msgspec.to_builtins(manifest.options),
        "versions": dict(manifest.versions),
        "fingerprint": manifest.fingerprint,
    }


def _split(split: SplitEntry, classes: tuple[str, ...], batch_size: int) -> dict[str, Any]:
    pixels = max(sum(split.class_pixels), 1)
    return {
        "samples": split.samples,
        "shards": len(split.shards),
        "bytes": sum(shard.bytes + shard.index.bytes for shard in split.shards) + split.table.bytes,
        "steps_per_epoch": -(-split.samples // batch_size),
        "last_batch": (split.samples - 1) % batch_size + 1,
        "class_pixels": dict(zip(classes, split.class_pixels, strict=True)),
        "class_share": {
            name: round(count / pixels, 6) for name, count in zip(classes, split.class_pixels, strict=True)
        },
        "breeds": dict(split.breeds),
        "species": dict(split.species),
    }


def print_info(document: dict[str, Any], console: Console) -> None:
    """Print the description as tables for people."""
    side = f", {document['size']} x {document['size']} pixels" if document["size"] else ""
    largest = document["largest"]
    console.print(
        f"{document['path']}: {document['samples']} samples, {document['storage']} storage{side}, "
        f"{document['bytes'] / 1e6:.1f} MB, largest picture {largest['width']} x {largest['height']}",
        soft_wrap=True,
    )
    training = document["training"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("split")
    for name in ("samples", "shards", "MB", "steps", "last", *document["classes"]):
        table.add_column(name, justify="right")
    for name, split in document["splits"].items():
        numbers = (split["samples"], split["shards"], f"{split['bytes'] / 1e6:.1f}", split["steps_per_epoch"])
        shares = (f"{100 * share:.1f} %" for share in split["class_share"].values())
        table.add_row(name, *map(str, numbers), str(split["last_batch"]), *shares)
    console.print(table)
    console.print(
        f"steps: batches of an epoch at {training['batch_size']} pictures a batch, "
        f"{training['batch_per_rank']} of them on each of {training['world_size']} ranks\n"
        f"last: pictures in the last batch; {', '.join(document['classes'])}: share of the trimaps' pixels",
        soft_wrap=True,
    )
    console.print(_breeds(document))
    audit = document["audit"]
    console.print(
        f"audit: {audit['packed']} of {audit['found']} packed, {audit['mended']} mended, {audit['left_out']} left out",
        soft_wrap=True,
    )
    for reason, count in audit["reasons"].items():
        console.print(f"  {count} {reason}: {REASONS.get(reason, '')}", soft_wrap=True)
    console.print(f"fingerprint {document['fingerprint']}", soft_wrap=True)


def _breeds(document: dict[str, Any]) -> Table:
    """Return the samples of each breed in each split."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("breed")
    splits = document["splits"]
    for name in splits:
        table.add_column(name, justify="right")
    for breed in sorted({breed for split in splits.values() for breed in split["breeds"]}):
        table.add_row(breed, *(str(split["breeds"].get(breed, 0)) for split in splits.values()))
    return table
