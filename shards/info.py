"""A summary of a shard set and of the epochs that training makes of it (``petseg-shard info``)."""

from typing import Any

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from shards.audit.findings import REASONS
from shards.errors import UsageError
from shards.format.dataset import ShardSet
from shards.format.geometry import size_text
from shards.format.layout import SPLITS
from shards.format.manifest import SplitEntry


def describe(shards: ShardSet, *, batch_size: int, world_size: int) -> dict[str, Any]:
    """Return the summary as a JSON object, with the steps of a global batch that ``world_size`` ranks share.

    Raises ``UsageError`` if ``world_size`` does not divide ``batch_size``.
    """
    if batch_size % world_size:
        raise UsageError(
            f"--batch-size {batch_size} (all ranks together) cannot be shared by --world-size {world_size}; "
            f"use a multiple of {world_size}"
        )
    manifest = shards.manifest
    splits = {name: manifest.splits[name] for name in SPLITS if name in manifest.splits}
    return {
        "path": str(shards.path),
        "storage": manifest.storage,
        "size": manifest.size,
        "fit": manifest.fit,
        "largest": {"height": manifest.largest[0], "width": manifest.largest[1]},
        "samples": manifest.samples,
        "bytes": sum(entry.bytes for entry in manifest.files()),
        "classes": list(manifest.labels.names),
        "splits": {name: _split(split, manifest.labels.names, batch_size) for name, split in splits.items()},
        "training": {"batch_size": batch_size, "world_size": world_size, "batch_per_rank": batch_size // world_size},
        "audit": {key: value for key, value in msgspec.to_builtins(manifest.audit).items() if key != "file"},
        "options": msgspec.to_builtins(manifest.options),
        "versions": dict(manifest.versions),
        "fingerprint": manifest.fingerprint,
    }


def _split(split: SplitEntry, classes: tuple[str, ...], batch_size: int) -> dict[str, Any]:
    class_pixels = dict(zip(classes, split.class_pixels, strict=True))
    pixels = max(sum(split.class_pixels), 1)
    return {
        "samples": split.samples,
        "shards": len(split.shards),
        "bytes": sum(shard.bytes + shard.index.bytes for shard in split.shards) + split.table.bytes,
        "steps_per_epoch": -(-split.samples // batch_size),
        "last_batch": (split.samples - 1) % batch_size + 1,
        "class_pixels": class_pixels,
        "class_share": {name: round(count / pixels, 6) for name, count in class_pixels.items()},
        "ignored_pixels": split.ignored_pixels,
        "attributes": {name: dict(counts) for name, counts in split.attributes.items()},
    }


def print_info(document: dict[str, Any], console: Console) -> None:
    """Print the summary as text and tables."""
    side = f", {size_text(document['size'])} pixels" if document["size"] else ""
    largest, training, audit = document["largest"], document["training"], document["audit"]
    console.print(
        f"{document['path']}: {document['samples']} samples, {document['storage']} storage{side}, "
        f"{document['bytes'] / 1e6:.1f} MB, largest image {largest['width']} x {largest['height']}",
        soft_wrap=True,
    )
    table = _table("split", "samples", "shards", "MB", "steps", "last", *document["classes"])
    for name, split in document["splits"].items():
        numbers = (split["samples"], split["shards"], f"{split['bytes'] / 1e6:.1f}", split["steps_per_epoch"])
        shares = (f"{100 * share:.1f} %" for share in split["class_share"].values())
        table.add_row(name, *map(str, numbers), str(split["last_batch"]), *shares)
    console.print(table)
    console.print(
        f"steps: batches per epoch with {training['batch_size']} images per batch, "
        f"{training['batch_per_rank']} of them on each of {training['world_size']} ranks\n"
        f"last: images in the last batch; {', '.join(document['classes'])}: share of the masks' pixels",
        soft_wrap=True,
    )
    splits = document["splits"]
    for attribute in sorted({name for split in splits.values() for name in split["attributes"]}):
        counts = {name: split["attributes"].get(attribute, {}) for name, split in splits.items()}
        table = _table(attribute, *splits)
        for value in sorted({value for each in counts.values() for value in each}):
            table.add_row(value, *(str(each.get(value, 0)) for each in counts.values()))
        console.print(table)
    packed = f"{audit['packed']} of {audit['found']} packed"
    console.print(f"audit: {packed}, {audit['repaired']} repaired, {audit['rejected']} rejected", soft_wrap=True)
    for reason, count in audit["reasons"].items():
        console.print(f"  {count} {reason}: {REASONS.get(reason, '')}", soft_wrap=True)
    console.print(f"fingerprint {document['fingerprint']}", soft_wrap=True)


def _table(first: str, *numbers: str) -> Table:
    """Return an empty table: one column of names, then columns of numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first)
    for name in numbers:
        table.add_column(name, justify="right")
    return table
