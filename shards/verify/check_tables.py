"""Checking what there is once per set or split: the tables, the audit file, the manifest's offsets of pixels."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from shards.audit.findings import ACTIONS, MAX_LINE, SampleFinding
from shards.errors import FormatError, first_line
from shards.format.layout import (
    MANIFEST_NAME,
    ROLES,
    SHARD_DTYPE,
    SPLITS,
    Split,
    index_name,
    member_span,
    row_check,
    shard_name,
    table_offset,
)
from shards.format.manifest import Manifest, RawLayout, SplitEntry
from shards.format.npy import SampleTable, ShardTable, npy_header, table_header
from shards.format.tar import padded
from shards.store.atomic import file_sha256
from shards.store.byte_ranges import check_shortage, open_regular, read_regular
from shards.verify.check_file import check_file, first_difference
from shards.verify.exchanged import exchanged_file, file_finder
from shards.verify.locate import wrong_byte_of_record
from shards.verify.problems import Problem

_CHUNK = 1 << 20


def check_table(
    folder: Path, manifest: Manifest, split: Split, *, quick: bool
) -> tuple[SampleTable | None, list[Problem]]:
    """Check a split's table; return it if its records can be used and are those of this set."""
    entry = manifest.splits[split].table
    problems = check_file(folder, entry, quick=quick)
    if problems and (other := exchanged_file(folder, entry, file_finder(manifest, {}))):
        return None, [other]
    try:
        table = SampleTable(folder / entry.file, samples=manifest.splits[split].samples)
    except FormatError as error:
        return None, problems or [Problem(kind="table", file=entry.file, message=str(error))]
    if problems and not quick:
        for start in range(0, len(table), _CHUNK):
            rows = table[start : start + _CHUNK]
            for index in np.flatnonzero(row_check(rows) != rows["check"]):
                number = start + int(index)
                message = f"the record of sample {number} of {split} does not match its checksum"
                place, inside = table_offset(number), wrong_byte_of_record(rows[index])
                if inside is None:
                    message += f" (somewhere in the {table_offset(1) - table_offset(0)} bytes from there)"
                problems.append(Problem(kind="table", file=entry.file, message=message, offset=place + (inside or 0)))
        if len(problems) == 1:  # a table that is damaged has a damaged record
            message = "is intact, but not the one that manifest.json describes: one of them is of another build"
            return None, [Problem(kind="exchanged", file=entry.file, message=message)]
    return table, problems


def check_shard_table(
    folder: Path, manifest: Manifest, split: Split, samples: SampleTable | None
) -> tuple[ShardTable | None, list[Problem]]:
    """Check a split's table of shards; return it if its records can be used.

    Where its SHA-256 is wrong, but that of a table made from the tars themselves is right, that one is returned, and
    the first byte that differs is named.
    """
    entry = manifest.splits[split]
    file, path = entry.shard_table.file, folder / entry.shard_table.file
    problems = check_file(folder, entry.shard_table, quick=False)
    other = exchanged_file(folder, entry.shard_table, file_finder(manifest, {})) if problems else None
    try:
        data = read_regular(path)
        if problems and (right := _table_of_tars(folder, split, entry, samples)) is not None:
            offset = first_difference(data, right)
            message = f"is damaged: shard {max(0, offset - table_offset(0, SHARD_DTYPE)) // SHARD_DTYPE.itemsize} "
            message += "has other sizes, samples or checksums than the tar, which is right"
            problems = [other or Problem(kind="checksum", file=file, message=message, offset=offset)]
            return ShardTable.parse(right, path, split, entry), problems
        table = ShardTable.parse(data, path, split, entry, checked=not problems)
    except OSError as error:
        check_shortage(error)
        return None, problems or [Problem(kind="missing", file=file, message=f"cannot be read: {error.strerror}")]
    except FormatError as error:
        return None, [other] if other else problems or [Problem(kind="table", file=file, message=str(error))]
    return table, [other] if other else problems


def _table_of_tars(folder: Path, split: Split, entry: SplitEntry, samples: SampleTable | None) -> bytes | None:
    """Return the table of shards as the files have it; None if that is not the one that the manifest describes."""
    if samples is None:
        return None
    records = np.zeros(entry.shards, SHARD_DTYPE)
    for start in range(0, len(samples), _CHUNK):
        shards = samples[start : start + _CHUNK]["shard"]
        records["samples"] += np.bincount(shards[shards < entry.shards], minlength=entry.shards).astype(np.uint64)
    try:
        for number, record in enumerate(records):
            for prefix, name in (("", shard_name(split, number)), ("index_", index_name(split, number))):
                if not (folder / name).is_file():
                    return None
                record[f"{prefix}bytes"] = (folder / name).stat().st_size
                record[f"{prefix}sha256"] = np.frombuffer(bytes.fromhex(file_sha256(folder / name)), np.uint8)
    except OSError as error:
        check_shortage(error)
        return None
    data = table_header(entry.shards, SHARD_DTYPE) + records.tobytes()
    return data if hashlib.sha256(data).hexdigest() == entry.shard_table.sha256 else None


def check_raw_layout(folder: Path, manifest: Manifest) -> Iterator[Problem]:
    """Compare the manifest's offsets of pixels with where the first sample's are; all samples are of equal lengths."""
    raw, size = manifest.raw, manifest.size
    if raw is None or size is None:
        return
    split = next(name for name in SPLITS if name in manifest.splits)
    try:
        row = SampleTable(folder / manifest.splits[split].table.file, samples=manifest.splits[split].samples)[0]
    except FormatError:  # reported with the table
        return
    image, mask, (meta, length) = (member_span(row, role) for role in ROLES)
    expected = RawLayout(
        stride=meta + padded(length),
        image_offset=image[0] + len(npy_header((*size, 3))),
        mask_offset=mask[0] + len(npy_header(size)),
    )
    if raw != expected:
        message = f"raw: the manifest says {_fields(raw)}, the samples say {_fields(expected)}"
        yield Problem(kind="manifest", file=MANIFEST_NAME, message=message)


def _fields(raw: RawLayout) -> str:
    return f"stride {raw.stride}, image_offset {raw.image_offset}, mask_offset {raw.mask_offset}"


def check_audit_file(folder: Path, manifest: Manifest, *, quick: bool) -> list[Problem]:
    """Check the audit file, and unless ``quick`` the manifest's counts against its lines."""
    entry = manifest.audit.file
    problems = check_file(folder, entry, quick=quick)
    if quick or problems:
        return problems
    reasons: Counter[str] = Counter()
    images, last = dict.fromkeys(ACTIONS, 0), dict.fromkeys(ACTIONS, "")
    try:
        with os.fdopen(open_regular(folder / entry.file), encoding="ascii") as handle:
            while line := handle.readline(MAX_LINE):  # sorted by name
                found = msgspec.json.decode(line, type=SampleFinding)
                reasons[found.reason] += 1
                images[found.action] += found.name != last[found.action]
                last[found.action] = found.name
    except (OSError, RecursionError, ValueError) as error:
        if isinstance(error, OSError):
            check_shortage(error)
        return [Problem(kind="count", file=entry.file, message=f"cannot be read: {first_line(error)}")]
    audit = manifest.audit
    pairs: list[tuple[str, Any, Any]] = [
        ("reasons", audit.reasons, dict(sorted(reasons.items()))),
        ("repaired", audit.repaired, images["repaired"]),
        ("rejected", audit.rejected, images["rejected"]),
        ("packed", audit.packed, manifest.samples),
        ("found", audit.found, manifest.samples + images["rejected"]),
    ]
    return [
        Problem(kind="count", file=entry.file, message=f"{what}: the manifest says {claimed}, the file says {counted}")
        for what, claimed, counted in pairs
        if claimed != counted
    ]
