"""A summary of a shard set and of the epochs that training makes of it (``petseg-shard info``)."""

import re
from typing import Any, Final

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shards.audit.findings import reason_text
from shards.errors import UsageError, counted, option, printable
from shards.format.dataset import ShardSet
from shards.format.geometry import size_text
from shards.format.layout import SPLITS
from shards.format.manifest import SplitEntry
from shards.store.byte_sizes import bytes_text

MAX_VALUES: Final = 12  # of an attribute in the text; JSON has all
MAX_CELL: Final = 40  # characters of a value


def describe(shards: ShardSet, *, batch_size: int, world_size: int) -> dict[str, Any]:
    """Return the summary as a JSON object, with the steps of a global batch that ``world_size`` ranks share.

    Raises ``UsageError`` if ``world_size`` does not divide ``batch_size``.
    """
    if batch_size % world_size:
        raise UsageError(
            f"{option('batch_size', batch_size)} (all ranks together) cannot be shared by "
            f"{option('world_size', world_size)}; use a multiple of {world_size}"
        )
    manifest = shards.manifest
    splits = {name: manifest.splits[name] for name in SPLITS if name in manifest.splits}
    return {
        "path": shards.address,
        "version": manifest.version,
        "layout": manifest.options.layout,
        "storage": manifest.storage,
        "size": manifest.size,
        "fit": manifest.fit,
        "largest": {"height": manifest.largest[0], "width": manifest.largest[1]},
        "samples": manifest.samples,
        "bytes": manifest.bytes,
        "classes": list(manifest.labels.names),
        "labels": msgspec.to_builtins(manifest.labels),
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
        "shards": split.shards,
        "bytes": split.bytes + split.table.bytes + split.shard_table.bytes,
        "steps_per_epoch": -(-split.samples // batch_size),
        "last_batch": (split.samples - 1) % batch_size + 1,
        "class_pixels": class_pixels,
        "class_share": {name: round(count / pixels, 6) for name, count in class_pixels.items()},
        "ignored_pixels": split.ignored_pixels,
        "ignored_share": round(split.ignored_pixels / max(sum(split.class_pixels) + split.ignored_pixels, 1), 6),
        "attributes": {name: dict(counts) for name, counts in split.attributes.items()},
    }


def print_info(document: dict[str, Any], console: Console) -> None:
    """Print the summary as text and tables."""
    size = f", {size_text(document['size'])} pixels ({document['fit']})" if document["size"] else ""
    largest, training, audit = document["largest"], document["training"], document["audit"]
    splits = document["splits"]
    console.print(
        f"{printable(document['path'])}: {counted(document['samples'], 'sample')}, "
        f"layout {printable(document['layout'])}, {document['storage']} storage{size}, "
        f"{bytes_text(document['bytes'])}, images up to {largest['height']} high and up to {largest['width']} wide",
        soft_wrap=True,
    )
    table = _table(["split"], ["samples", "shards", "size", "steps", "last"])
    for name, split in splits.items():
        numbers = (split["samples"], split["shards"], bytes_text(split["bytes"]), split["steps_per_epoch"])
        table.add_row(name, *map(str, numbers), str(split["last_batch"]))
    console.print(table)
    console.print(
        f"steps: batches per epoch with {counted(training['batch_size'], 'image')} per batch{_per_rank(training)}\n"
        "last: images in the last batch; where it is incomplete, petseg-train leaves it out (--no-drop-last keeps it), "
        "unless it is the only one",
        soft_wrap=True,
    )
    _print_classes(document, console)
    for attribute in sorted({name for split in splits.values() for name in split["attributes"]}):
        _print_attribute(attribute, splits, console)
    packed = f"{audit['packed']} of {audit['found']} packed"
    console.print(f"audit: {packed}, {audit['repaired']} repaired, {audit['rejected']} rejected", soft_wrap=True)
    for reason, count in audit["reasons"].items():
        console.print(f"  {count} {printable(reason)}: {reason_text(reason)}", soft_wrap=True)
    console.print(f"fingerprint {document['fingerprint']}", soft_wrap=True)


def _print_classes(document: dict[str, Any], console: Console) -> None:
    """Print a row for each class: its colour, what it is in the source's masks, and its share in each split."""
    labels, splits = document["labels"], document["splits"]
    source_name = "source color" if any(each["source_colors"] for each in labels["classes"]) else "value"
    table = _table(["", "class", "color", source_name], list(splits))
    for index, each in enumerate(labels["classes"]):
        shares = (_percent(split["class_share"][each["name"]]) for split in splits.values())
        color = Text("\u25a0 ", style=each["color"]) + Text(each["color"])
        source = ", ".join(map(str, each["values"] or each["source_colors"]))
        table.add_row(str(index), _cell(each["name"]), color, _cell(source), *shares)
    ignored = ", ".join(map(str, labels["ignore"] or labels["ignore_colors"]))
    has_ignored = bool(ignored) or any(split["ignored_pixels"] for split in splits.values())
    if has_ignored:
        shares = (_percent(split["ignored_share"]) for split in splits.values())
        table.add_row("255", "(ignored)", "", _cell(ignored), *shares)
    console.print(table)
    console.print(
        f"{source_name}: in the source's masks; {', '.join(splits)}: share of the masks' pixels that are not ignored"
        + ("\n(ignored): share of all pixels" if has_ignored else ""),
        soft_wrap=True,
    )
    for what in ("foreground", "boundary"):
        if labels[what]:
            console.print(f"{what}: {', '.join(labels[what])}", soft_wrap=True)


def _print_attribute(attribute: str, splits: dict[str, Any], console: Console) -> None:
    """Print how many samples have each value of an attribute; the most frequent ones where there are many."""
    counts = {name: split["attributes"].get(attribute, {}) for name, split in splits.items()}
    totals: dict[str, int] = {}
    for each in counts.values():
        for value, count in each.items():
            totals[value] = totals.get(value, 0) + count
    frequent = sorted(totals, key=lambda value: (-totals[value], value))[:MAX_VALUES]
    table = _table([_cell(attribute)], list(splits))
    for value in sorted(frequent, key=_natural):
        table.add_row(_cell(value), *(str(each.get(value, 0)) for each in counts.values()))
    if len(totals) > len(frequent):
        others = [sum(each.values()) - sum(each.get(value, 0) for value in frequent) for each in counts.values()]
        more = len(totals) - len(frequent)
        table.add_row(f"({more} other value{'' if more == 1 else 's'})", *map(str, others))
    console.print(table)


def _natural(text: str) -> list[tuple[bool, int, str]]:
    """Return what texts are sorted by, so that numbers in them, of any length, count as numbers: 2, 10, 10a."""
    parts = [part.lstrip("0") if part.isdecimal() else part for part in re.split(r"(\d+)", text)]
    return [(number % 2 == 0, len(part) * (number % 2), part) for number, part in enumerate(parts) if part or number]


def _per_rank(training: dict[str, Any]) -> str:
    ranks = training["world_size"]
    return "" if ranks == 1 else f", {training['batch_per_rank']} of them on each of {ranks} ranks"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share == 0 or share >= 0.0005 else "< 0.1 %"


def _cell(text: str) -> str:
    """Return a text of the set as one short line without control characters."""
    line = printable(text)
    return line if len(line) <= MAX_CELL else line[: MAX_CELL - 3] + "..."


def _table(texts: list[str], numbers: list[str]) -> Table:
    """Return an empty table: columns of text, then columns of numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in texts:
        table.add_column(name, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table
