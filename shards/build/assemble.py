"""From the records of all shards to the files that make them a set: tables, quarantine file, manifest."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import PIL
import simplejpeg

from shards.audit.duplicates import Location, across_splits
from shards.audit.reasons import Note
from shards.build.plan import Plan
from shards.build.write_shard import ShardRecord
from shards.format.layout import (
    CLASSES,
    FORMAT,
    MANIFEST_NAME,
    QUARANTINE_NAME,
    SAMPLE_DTYPE,
    SPLITS,
    VERSION,
    Rows,
    Split,
    index_name,
    row_check,
    shard_name,
    table_name,
)
from shards.format.manifest import (
    AuditEntry,
    FileEntry,
    Manifest,
    ShardEntry,
    SplitEntry,
    content_fingerprint,
    dump_manifest,
)
from shards.format.npy import table_header
from shards.store.atomic import atomic_file, write_atomically


def final_numbers(records: Sequence[ShardRecord]) -> dict[tuple[Split, int], int]:
    """Return the number that each shard has in the set; a shard without samples has none."""
    numbers: dict[tuple[Split, int], int] = {}
    counts: Counter[Split] = Counter()
    for record in sorted(records, key=lambda record: (record.split, record.number)):
        if record.samples:
            numbers[record.split, record.number] = counts[record.split]
            counts[record.split] += 1
    return numbers


def assemble(folder: Path, plan: Plan, records: Sequence[ShardRecord]) -> tuple[Manifest, list[Note]]:
    """Write tables and quarantine file into ``folder``, where the tars have their final names, and make the manifest.

    The manifest itself is not written, and nothing is flushed to the disk yet.

    Returns:
        The manifest, and every finding in the order of the quarantine file.
    """
    numbers = final_numbers(records)
    splits: dict[Split, SplitEntry] = {}
    tables: dict[Split, list[Rows]] = {}
    for name in SPLITS:
        chosen = sorted(
            (record for record in records if record.split == name and record.samples), key=lambda r: r.number
        )
        if chosen:
            tables[name] = [_rows(record, numbers[name, record.number]) for record in chosen]
            splits[name] = _split_entry(folder, name, chosen, tables[name])
    notes = [*plan.notes, *(note for record in records for note in record.notes)]
    notes += _leaks(folder, tables)
    notes.sort(key=lambda note: (note.name, note.reason, note.split or "", note.detail))
    quarantine = "".join(json.dumps(_line(note)) + "\n" for note in notes).encode("ascii")
    with atomic_file(folder / QUARANTINE_NAME, sync=False) as handle:
        handle.write(quarantine)
    packed = sum(split.samples for split in splits.values())
    audit = AuditEntry(
        found=plan.found,
        packed=packed,
        mended=sum(record.mended for record in records),
        left_out=plan.found - packed,
        reasons=dict(sorted(Counter(note.reason for note in notes).items())),
        quarantine=_entry(QUARANTINE_NAME, quarantine),
    )
    options = plan.options
    manifest = Manifest(
        format=FORMAT,
        version=VERSION,
        storage=options.storage,
        size=options.size,
        classes=CLASSES,
        options=options.for_manifest(),
        splits=splits,
        largest=(max(r.largest[0] for r in records), max(r.largest[1] for r in records)),
        raw=plan.raw,
        audit=audit,
        versions=library_versions(),
        plan=plan.digest,
        fingerprint=content_fingerprint(storage=options.storage, size=options.size, splits=splits),
    )
    return manifest, notes


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json``: the last file of a set."""
    write_atomically(folder / MANIFEST_NAME, dump_manifest(manifest))


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that decide a set's bytes."""
    return {"numpy": np.__version__, "pillow": PIL.__version__, "simplejpeg": simplejpeg.__version__}


def _rows(record: ShardRecord, number: int) -> Rows:
    rows = np.frombuffer(record.rows, SAMPLE_DTYPE).copy()
    rows["shard"] = number
    rows["check"] = row_check(rows)
    return rows


def _split_entry(folder: Path, name: Split, records: Sequence[ShardRecord], tables: Sequence[Rows]) -> SplitEntry:
    shards = []
    for number, record in enumerate(records):
        index = FileEntry(file=index_name(name, number), bytes=record.index_bytes, sha256=record.index_sha256)
        file = shard_name(name, number)
        shards.append(
            ShardEntry(file=file, bytes=record.tar_bytes, sha256=record.sha256, samples=record.samples, index=index)
        )
    pixels = np.array([record.class_pixels for record in records], np.int64).sum(axis=0).tolist()
    return SplitEntry(
        samples=sum(record.samples for record in records),
        table=_write_table(folder / table_name(name), tables),
        shards=tuple(shards),
        class_pixels=(pixels[0], pixels[1], pixels[2]),
        breeds=_added(record.breeds for record in records),
        species=_added(record.species for record in records),
    )


def _write_table(path: Path, tables: Sequence[Rows]) -> FileEntry:
    """Write the rows of all shards as one ``.npy`` file."""
    digest, size = hashlib.sha256(), 0
    with atomic_file(path, sync=False) as handle:
        for part in (table_header(sum(map(len, tables))), *(rows.tobytes() for rows in tables)):
            handle.write(part)
            digest.update(part)
            size += len(part)
    return FileEntry(file=path.name, bytes=size, sha256=digest.hexdigest())


def _leaks(folder: Path, tables: dict[Split, list[Rows]]) -> Iterator[Note]:
    """Yield a remark for every sample whose picture is in another split, too."""
    joined = {name: np.concatenate(rows) for name, rows in tables.items()}
    for group in across_splits(folder, joined):
        for location in group:
            others = ", ".join(f"{other.name} in {other.split}" for other in group if other != location)
            yield _leak(location, others)


def _leak(location: Location, others: str) -> Note:
    return Note(
        name=location.name,
        action="remark",
        reason="duplicate-across-splits",
        detail=f"the same picture as {others}",
        split=location.split,
    )


def _line(note: Note) -> dict[str, str | None]:
    return {
        "name": note.name,
        "action": note.action,
        "reason": note.reason,
        "detail": note.detail,
        "split": note.split,
    }


def _entry(name: str, data: bytes) -> FileEntry:
    return FileEntry(file=name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def _added(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))
