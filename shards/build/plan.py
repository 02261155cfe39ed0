"""The plan of a build: which sample goes into which shard, in which order. Every shard is a function of it alone."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec

from shards.audit.findings import MAX_PIXELS
from shards.audit.reasons import Note
from shards.build.options import Options
from shards.build.splits import official_split, random_split, shuffled
from shards.format.keys import assign_keys, shown
from shards.format.layout import FORMAT, SPLITS, TAR_BLOCK, VERSION, Split, Storage
from shards.format.manifest import RawLayout
from shards.format.npy import npy_header
from shards.format.tar import padded
from shards.sources.pets import Pair, Source


class PlannedSample(msgspec.Struct, frozen=True, kw_only=True):
    """A pair with its key."""

    key: str
    pair: Pair


class ShardTask(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides a shard's bytes, next to the files themselves.

    ``meta_bytes`` is the length that ``KEY.json`` is padded to with spaces, None for no padding.
    """

    split: Split
    number: int
    samples: tuple[PlannedSample, ...]
    storage: Storage
    size: int | None
    quality: int | None
    meta_bytes: int | None


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All shards to be built, what was left out before any picture was opened, and a digest of both.

    The digest covers names, lists, file sizes and options; not where the source lies, nor any time.
    """

    options: Options
    tasks: tuple[ShardTask, ...]
    notes: tuple[Note, ...]
    found: int
    raw: RawLayout | None
    digest: str


def make_plan(source: Source, options: Options) -> Plan:
    """Divide a source into splits and shards.

    Within a split, samples stand in a seeded pseudo-random order, so that a reader that goes through the shards
    one after the other sees all breeds mixed.

    Raises:
        SourceError: the official split is asked for and the lists are missing.
    """
    notes = list(source.notes)
    if options.split == "official":
        splits, more = official_split(source, val_fraction=options.fractions[1], seed=options.seed)
        notes += more
    else:
        splits = random_split(source.pairs, fractions=options.fractions, seed=options.seed)
    keys = assign_keys(pair.name for pair in source.pairs)
    by_name = {pair.name: pair for pair in source.pairs}
    meta_bytes = _longest_meta(source, keys) if options.storage == "raw" else None
    tasks: list[ShardTask] = []
    for name in SPLITS:
        order = shuffled((pair.name for pair in splits[name]), seed=options.seed, purpose="order")
        for number, start in enumerate(range(0, len(order), options.samples_per_shard)):
            chosen = order[start : start + options.samples_per_shard]
            tasks.append(
                ShardTask(
                    split=name,
                    number=number,
                    samples=tuple(PlannedSample(key=keys[n], pair=by_name[n]) for n in chosen),
                    storage=options.storage,
                    size=options.size,
                    quality=options.quality,
                    meta_bytes=meta_bytes,
                )
            )
    packable = sum(len(task.samples) for task in tasks)
    left_out = {note.name for note in notes if note.action == "left-out"}
    return Plan(
        options=options,
        tasks=tuple(tasks),
        notes=tuple(notes),
        found=packable + len(left_out),
        raw=raw_layout(options.size, meta_bytes) if options.size and meta_bytes else None,
        digest=_digest(options, tasks, notes),
    )


def meta_json(sample: PlannedSample, *, split: Split, width: int, height: int, length: int | None) -> bytes:
    """Return ``KEY.json``: one line, padded with spaces to ``length`` bytes before its line break."""
    pair = sample.pair
    document = {
        "key": sample.key,
        "name": shown(pair.name),
        "breed": pair.breed,
        "species": ("unknown", "cat", "dog")[pair.species],
        "class_id": pair.class_id,
        "split": split,
        "width": width,
        "height": height,
    }
    text = json.dumps(document, ensure_ascii=True)
    if length is not None:
        text = text.ljust(length - 1)
    return (text + "\n").encode("ascii")


def raw_layout(size: int, meta_bytes: int) -> RawLayout:
    """Return where the pixels of the samples stand in a ``raw`` tar: the same distance apart throughout."""
    image_header, trimap_header = len(npy_header((size, size, 3))), len(npy_header((size, size)))
    image = padded(image_header + 3 * size * size)
    trimap = padded(trimap_header + size * size)
    return RawLayout(
        stride=3 * TAR_BLOCK + image + trimap + padded(meta_bytes),
        image_offset=TAR_BLOCK + image_header,
        trimap_offset=2 * TAR_BLOCK + image + trimap_header,
    )


def _longest_meta(source: Source, keys: dict[str, str]) -> int:
    """Return the length of the longest ``KEY.json`` that the plan can produce."""
    return max(
        len(
            meta_json(
                PlannedSample(key=keys[pair.name], pair=pair),
                split="train",  # the longest of the three names
                width=MAX_PIXELS,
                height=MAX_PIXELS,
                length=None,
            )
        )
        for pair in source.pairs
    )


def _digest(options: Options, tasks: list[ShardTask], notes: list[Note]) -> str:
    """Return the SHA-256 (hex) of all that decides the set, but for the content of the files."""
    digest = hashlib.sha256(f"{FORMAT} {VERSION}\n".encode())

    def add(document: Any) -> None:
        digest.update(json.dumps(document, ensure_ascii=True).encode() + b"\n")

    add(msgspec.to_builtins(options))
    for note in notes:
        add([note.name, note.action, note.reason, note.split])
    for task in tasks:
        add([task.split, task.number, task.meta_bytes])
        for sample in task.samples:
            pair = sample.pair
            sizes = [pair.image_stamp.bytes, pair.trimap_stamp.bytes]
            add([sample.key, pair.name, *sizes, pair.class_id, pair.species])
    return digest.hexdigest()
