"""Checking whether a shard set is as it was built: manifest, tables, indices and tars against each other."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np

from shards.audit.findings import ACTIONS, SampleFinding
from shards.errors import FormatError
from shards.format.geometry import size_text
from shards.format.labels import IGNORE
from shards.format.layout import (
    MANIFEST_NAME,
    ROLES,
    SPLITS,
    Split,
    index_name,
    is_set_file,
    member_span,
    row_check,
    shard_name,
    table_offset,
)
from shards.format.manifest import Manifest, RawLayout, load_manifest
from shards.format.npy import SampleTable, ShardTable, npy_header
from shards.format.tar import padded
from shards.store.byte_ranges import read_regular
from shards.verify.check_shard import ShardCheck, check_file
from shards.verify.problems import Mode, Problem, Report

Progress: TypeAlias = Callable[[int, int], None]
_CHUNK = 1 << 20


def verify(
    path: str | Path,
    *,
    mode: Mode = "default",
    workers: int = 1,
    progress: Progress | None = None,
    around: Callable[[ShardCheck], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> Report:
    """Check a shard set; never raises, whatever is in the folder.

    Args:
        path: the set's folder.
        mode: ``quick`` checks sizes and structure only, in constant time per shard. ``default`` reads every byte and
            finds any that changed. ``full`` also decodes every sample.
        workers: threads that check shards at the same time.
        progress: called with (shards done, all shards).
        around: entered for the time of each shard's check, in its thread: brings its files, see check_address.
    """
    folder, quick = Path(path), mode == "quick"
    report = Report(path=str(path), mode=mode)
    try:
        manifest = load_manifest(folder)
    except (FormatError, OSError) as error:
        report.add([Problem(kind="manifest", file=MANIFEST_NAME, message=str(error))])
        return report
    report.files = 1 + len(manifest.files()) + sum(2 * split.shards for split in manifest.splits.values())
    report.add(_stray_files(folder, manifest))
    report.add(_check_audit_file(folder, manifest, quick=quick))
    checks: list[ShardCheck] = []
    for split in SPLITS:
        if split in manifest.splits:
            table, problems = _check_table(folder, manifest, split, quick=quick)
            report.add(problems)
            shards, problems = _check_shard_table(folder, manifest, split, quick=quick)
            report.add(problems)
            start = 0
            for number, shard in enumerate(shards or ()):
                checks.append(ShardCheck(folder, manifest, split, number, shard, table, start))
                start += shard.samples

    def run(check: ShardCheck) -> ShardCheck:
        with around(check):
            return check.run(mode)

    with ThreadPoolExecutor(max(workers, 1)) as executor:
        for done, check in enumerate(executor.map(run, checks), start=1):
            report.add(check.problems)
            if progress is not None:
                progress(done, len(checks))
    report.samples = manifest.samples
    report.bytes = 0 if quick else manifest.bytes
    if report.ok:
        report.add(_check_raw_layout(folder, manifest))
    if not quick and report.ok:
        report.add(_check_counts(manifest, checks, decoded=mode == "full"))
    return report


def _check_table(
    folder: Path, manifest: Manifest, split: Split, *, quick: bool
) -> tuple[SampleTable | None, list[Problem]]:
    """Check a split's table; return it if its records can be used."""
    entry = manifest.splits[split].table
    problems = check_file(folder, entry, quick=quick)
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
                problems.append(Problem(kind="table", file=entry.file, message=message, offset=table_offset(number)))
    return table, problems


def _check_shard_table(
    folder: Path, manifest: Manifest, split: Split, *, quick: bool
) -> tuple[ShardTable | None, list[Problem]]:
    """Check a split's table of shards; return it if its records can be used."""
    entry = manifest.splits[split]
    file, path = entry.shard_table.file, folder / entry.shard_table.file
    problems = check_file(folder, entry.shard_table, quick=quick)
    try:
        table = ShardTable.parse(read_regular(path), path, split, entry, checked=not problems)
    except OSError as error:
        return None, problems or [Problem(kind="missing", file=file, message=f"cannot be read: {error.strerror}")]
    except FormatError as error:
        return None, problems or [Problem(kind="table", file=file, message=str(error))]
    return table, problems


def _check_raw_layout(folder: Path, manifest: Manifest) -> Iterator[Problem]:
    """Compare the manifest's offsets of pixels with where the first sample's are; all samples are of equal lengths."""
    raw, size = manifest.raw, manifest.size
    if raw is None or size is None:
        return
    split = next(name for name in SPLITS if name in manifest.splits)
    row = SampleTable(folder / manifest.splits[split].table.file, samples=manifest.splits[split].samples)[0]
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


def _check_audit_file(folder: Path, manifest: Manifest, *, quick: bool) -> list[Problem]:
    entry = manifest.audit.file
    problems = check_file(folder, entry, quick=quick)
    if quick or problems:
        return problems
    try:
        lines = (folder / entry.file).read_text(encoding="ascii").splitlines()
        findings = [msgspec.json.decode(line, type=SampleFinding) for line in lines]
    except (OSError, ValueError) as error:
        return [Problem(kind="count", file=entry.file, message=f"cannot be read: {error}")]
    audit = manifest.audit
    images = {action: len({found.name for found in findings if found.action == action}) for action in ACTIONS}
    pairs: list[tuple[str, Any, Any]] = [
        ("reasons", audit.reasons, dict(sorted(Counter(found.reason for found in findings).items()))),
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


def _check_counts(manifest: Manifest, checks: Sequence[ShardCheck], *, decoded: bool) -> Iterator[Problem]:
    """Compare the manifest's counts with those of the samples; only of a set without other problems."""
    if manifest.storage == "source":
        height, width = (max(check.largest[axis] for check in checks) for axis in (0, 1))
        if (height, width) != manifest.largest:
            counted = size_text((height, width))
            message = f"largest: the manifest says {size_text(manifest.largest)}, the samples say {counted}"
            yield Problem(kind="count", file=MANIFEST_NAME, message=message)
    for name, split in manifest.splits.items():
        own = [check for check in checks if check.split == name]
        pairs: list[tuple[str, Any, Any]] = [
            (attribute, counts, dict(sum((check.attributes[attribute] for check in own), Counter[str]())))
            for attribute, counts in split.attributes.items()
        ]
        if decoded:
            pixels = sum((check.pixels for check in own), np.zeros(256, np.int64))
            pairs.append(("class_pixels", list(split.class_pixels), pixels[: len(manifest.labels)].tolist()))
            pairs.append(("ignored_pixels", split.ignored_pixels, int(pixels[IGNORE])))
        for what, claimed, counted in pairs:
            if claimed != counted:
                message = f"{what} of {name}: the manifest says {claimed}, the samples say {counted}"
                yield Problem(kind="count", file=MANIFEST_NAME, message=message)


def _stray_files(folder: Path, manifest: Manifest) -> Iterator[Problem]:
    """Yield files that a reader of ``train-*.tar`` would take for a part of the set."""
    known = {entry.file for entry in manifest.files()}
    for split, entry in manifest.splits.items():
        known |= {naming(split, number) for naming in (shard_name, index_name) for number in range(entry.shards)}
    for name in sorted(entry.name for entry in folder.iterdir()):
        if name not in known and is_set_file(name):
            yield Problem(kind="stray", file=name, message="is named like a part of the set, but is not one")
