"""From the records of all shards to the files that make them a set: tables, audit file, manifest."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from shards.audit.duplicates import ReadTar, duplicates_across_splits
from shards.audit.findings import SampleFinding
from shards.build.outcome.library_versions import library_versions
from shards.build.plan import PlanOutline
from shards.build.write_shard import ShardRecord, write_file
from shards.format.labels import IGNORE
from shards.format.layout import (
    AUDIT_NAME,
    FORMAT,
    MANIFEST_NAME,
    SAMPLE_DTYPE,
    SPLITS,
    VERSION,
    Rows,
    Split,
    index_name,
    row_check,
    shard_name,
    shard_table_name,
    table_name,
)
from shards.format.manifest import (
    AuditEntry,
    BuildOptions,
    Manifest,
    SplitEntry,
    content_fingerprint,
    dump_manifest,
)
from shards.format.npy import ShardEntry, shard_table_bytes, table_header
from shards.store.atomic import sync_file, sync_folder, write_atomically

MAX_COUNTED = 256  # values of an attribute, such as breeds; one with more (a date) is not counted


def assemble(
    folder: Path,
    plan: PlanOutline,
    records: Sequence[ShardRecord],
    *,
    read: ReadTar,
    versions: dict[str, str] | None = None,
) -> tuple[Manifest, list[SampleFinding]]:
    """Write tables and audit file into ``folder``, and make the manifest.

    ``records`` are in the order of the plan; ``read`` reads the tars, by the numbers that they have in the set.
    ``versions`` are those of the libraries that the shards were built with; None for this process's. The manifest is
    not written, and nothing is flushed to the disk yet.
    Returns the manifest, and every finding in the order of the audit file.
    """
    splits: dict[Split, SplitEntry] = {}
    tables: dict[Split, Rows] = {}
    for name in SPLITS:
        chosen = [record for record in records if record.split == name and record.samples]
        if chosen:
            tables[name] = rows = np.frombuffer(b"".join(record.rows for record in chosen), SAMPLE_DTYPE).copy()
            rows["shard"] = np.repeat(np.arange(len(chosen)), [record.samples for record in chosen])
            rows["check"] = row_check(rows)
            splits[name] = _split_entry(folder, name, chosen, rows, classes=len(plan.labels))
    findings = [*plan.findings, *(finding for record in records for finding in record.findings)]
    if len(tables) > 1:
        findings += duplicates_across_splits(read, tables)
    findings.sort(key=lambda finding: (finding.name, finding.reason, finding.split or "", finding.detail))
    lines = "".join(json.dumps(msgspec.to_builtins(finding)) + "\n" for finding in findings)
    packed = sum(split.samples for split in splits.values())
    audit = AuditEntry(
        found=plan.found,
        packed=packed,
        repaired=sum(record.repaired for record in records),
        rejected=plan.found - packed,
        reasons=dict(sorted(Counter(finding.reason for finding in findings).items())),
        file=write_file(folder / AUDIT_NAME, lines.encode("ascii")),
    )
    options = plan.options
    manifest = Manifest(
        format=FORMAT,
        version=VERSION,
        storage=options.storage,
        size=options.size,
        fit=options.fit,
        labels=plan.labels,
        options=BuildOptions(
            layout=plan.layout,
            split=options.split,
            fractions=options.fractions,
            seed=options.seed,
            samples_per_shard=options.samples_per_shard,
            shard_bytes=None if options.samples_per_shard else options.shard_bytes,
            max_pixels=options.max_pixels,
            exif=options.exif,
            quality=options.quality,
        ),
        splits=splits,
        largest=(max(record.largest[0] for record in records), max(record.largest[1] for record in records)),
        raw=plan.raw,
        audit=audit,
        versions=library_versions() if versions is None else versions,
        plan=plan.digest,
        fingerprint=content_fingerprint(storage=options.storage, size=options.size, labels=plan.labels, splits=splits),
    )
    return manifest, findings


def write_manifest_last(folder: Path, manifest: Manifest) -> None:
    """Flush what :func:`assemble` has written into ``folder``, then write the manifest, which makes it a set."""
    for entry in manifest.files():
        sync_file(folder / entry.file)
    sync_folder(folder)
    write_atomically(folder / MANIFEST_NAME, dump_manifest(manifest))


def tar_reader(place: Callable[[str], Path]) -> ReadTar:
    """Return what reads local tars; ``place`` returns the path of the one that has a name in the set."""

    def read(split: Split, number: int, offset: int, length: int) -> bytes:
        with place(shard_name(split, number)).open("rb") as handle:
            handle.seek(offset)
            return handle.read(length)

    return read


def _split_entry(folder: Path, name: Split, records: Sequence[ShardRecord], table: Rows, *, classes: int) -> SplitEntry:
    shards = []
    for number, record in enumerate(records):
        tar, index = record.tar, msgspec.structs.replace(record.index, file=index_name(name, number))
        file = shard_name(name, number)
        shards.append(ShardEntry(file=file, bytes=tar.bytes, sha256=tar.sha256, samples=record.samples, index=index))
    pixels = [sum(counts) for counts in zip(*(record.pixels for record in records), strict=True)]
    attributes = sorted({attribute for record in records for attribute in record.attributes})
    counts = {each: _sum(record.attributes.get(each, {}) for record in records) for each in attributes}
    return SplitEntry(
        samples=len(table),
        shards=len(shards),
        bytes=sum(shard.bytes + shard.index.bytes for shard in shards),
        table=write_file(folder / table_name(name), table_header(len(table)) + table.tobytes()),
        shard_table=write_file(folder / shard_table_name(name), shard_table_bytes(shards)),
        class_pixels=tuple(pixels[:classes]),
        ignored_pixels=pixels[IGNORE],
        attributes={each: values for each, values in counts.items() if len(values) <= MAX_COUNTED},
    )


def _sum(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    return dict(sorted(sum(map(Counter, counts), Counter[str]()).items()))
