"""What a shard set is, and what a training run will see of it."""

from __future__ import annotations

from typing import Any

import msgspec

from shards.errors import UsageError
from shards.format import SPLITS
from shards.manifest import SplitEntry
from shards.shardset import ShardSet


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


def info_text(document: dict[str, Any]) -> str:
    """Return the description for people."""
    return _plain(document)


def _plain(document: dict[str, Any]) -> str:
    side = f", {document['size']} x {document['size']} pixels" if document["size"] else ""
    training = document["training"]
    lines = [
        f"{document['path']}: {document['samples']} samples, {document['storage']} storage{side}, "
        f"{document['bytes'] / 1e6:.1f} MB",
        f"largest picture {document['largest']['width']} x {document['largest']['height']}",
        "",
        f"{'split':<7}{'samples':>9}{'shards':>8}{'MB':>9}{'steps':>8}   " + "   ".join(document["classes"]),
    ]
    for name, split in document["splits"].items():
        shares = "   ".join(f"{100 * split['class_share'][c]:>{len(c) - 2}.1f} %" for c in document["classes"])
        lines.append(
            f"{name:<7}{split['samples']:>9}{split['shards']:>8}{split['bytes'] / 1e6:>9.1f}"
            f"{split['steps_per_epoch']:>8}   {shares}"
        )
    lines += [
        "",
        f"steps: batches an epoch of {training['batch_size']} pictures, "
        f"{training['batch_per_rank']} on each of {training['world_size']} ranks",
        f"audit: {document['audit']['packed']} of {document['audit']['found']} packed, "
        f"{document['audit']['mended']} mended, {document['audit']['left_out']} left out",
        f"fingerprint {document['fingerprint']}",
    ]
    return "\n".join(lines)
