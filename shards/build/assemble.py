"""From the records of all shards to the files that make them a set: tables, quarantine file, manifest."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import PIL
import simplejpeg

from shards.audit.duplicates import duplicates_across_splits
from shards.audit.findings import Finding
from shards.build.plan import BuildPlan
from shards.build.write_shard import ShardRecord, write_file
from shards.format.layout import (
    CLASSES,
    FORMAT,
    QUARANTINE_NAME,
    SAMPLE_DTYPE,
    SPECIES,
    SPLITS,
    VERSION,
    Rows,
    Split,
    index_name,
    row_check,
    shard_name,
    table_name,
)
from shards.format.manifest import AuditEntry, Manifest, ShardEntry, SplitEntry, content_fingerprint
from shards.format.npy import table_header


def final_numbers(records: Sequence[ShardRecord]) -> dict[tuple[Split, int], int]:
    """Return the number that each shard has in the set; a shard without samples has none."""
    numbers: dict[tuple[Split, int], int] = {}
    for split in SPLITS:
        filled = sorted(record.number for record in records if record.split == split and record.samples)
        numbers |= {(split, number): final for final, number in enumerate(filled)}
    return numbers


def assemble(folder: Path, plan: BuildPlan, records: Sequence[ShardRecord]) -> tuple[Manifest, list[Finding]]:
    """Write tables and quarantine file into ``folder``, where the tars have their final names; flush nothing yet.

    Returns the manifest, which is not written yet, and every finding in the order of the quarantine file.
    """
    splits: dict[Split, SplitEntry] = {}
    tables: dict[Split, Rows] = {}
    for name in SPLITS:
        chosen = [record for record in records if record.split == name and record.samples]
        if chosen:
            chosen.sort(key=lambda record: record.number)
            tables[name] = _table(chosen)
            splits[name] = _split_entry(folder, name, chosen, tables[name])
    findings = [*plan.findings, *(finding for record in records for finding in record.findings)]
    if len(tables) > 1:
        findings += duplicates_across_splits(folder, tables)
    findings.sort(key=lambda finding: (finding.name, finding.reason, finding.split or "", finding.detail))
    lines = "".join(json.dumps(msgspec.to_builtins(finding)) + "\n" for finding in findings)
    packed = sum(split.samples for split in splits.values())
    audit = AuditEntry(
        found=plan.found,
        packed=packed,
        mended=sum(record.repaired for record in records),
        left_out=plan.found - packed,
        reasons=dict(sorted(Counter(finding.reason for finding in findings).items())),
        quarantine=write_file(folder / QUARANTINE_NAME, lines.encode("ascii")),
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
        largest=(options.size, options.size) if options.size else (_most(tables, "width"), _most(tables, "height")),
        raw=plan.raw,
        audit=audit,
        versions={"numpy": np.__version__, "pillow": PIL.__version__, "simplejpeg": simplejpeg.__version__},
        plan=plan.digest,
        fingerprint=content_fingerprint(storage=options.storage, size=options.size, splits=splits),
    )
    return manifest, findings


def _table(records: Sequence[ShardRecord]) -> Rows:
    rows = np.frombuffer(b"".join(record.rows for record in records), SAMPLE_DTYPE).copy()
    rows["shard"] = np.repeat(np.arange(len(records)), [record.samples for record in records])
    rows["check"] = row_check(rows)
    return rows


def _split_entry(folder: Path, name: Split, records: Sequence[ShardRecord], table: Rows) -> SplitEntry:
    shards = []
    for number, record in enumerate(records):
        tar, index = record.tar, msgspec.structs.replace(record.index, file=index_name(name, number))
        file = shard_name(name, number)
        shards.append(ShardEntry(file=file, bytes=tar.bytes, sha256=tar.sha256, samples=record.samples, index=index))
    pixels = np.array([record.class_pixels for record in records], np.int64).sum(axis=0).tolist()
    return SplitEntry(
        samples=len(table),
        table=write_file(folder / table_name(name), table_header(len(table)) + table.tobytes()),
        shards=tuple(shards),
        class_pixels=(pixels[0], pixels[1], pixels[2]),
        breeds=dict(sorted(sum((Counter(record.breeds) for record in records), Counter[str]()).items())),
        species=dict(sorted(Counter(SPECIES[number] for number in table["species"]).items())),
    )


def _most(tables: dict[Split, Rows], name: str) -> int:
    return max((int(table[name].max()) for table in tables.values()), default=0)
