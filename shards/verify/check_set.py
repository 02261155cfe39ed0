"""Whether a shard set is what it was when it was built: manifest, tables, indices and tars against each other."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from shards.build.staging import is_set_file
from shards.errors import FormatError
from shards.format.layout import MANIFEST_NAME, SPLITS, Rows, Split, row_check
from shards.format.manifest import FileEntry, Manifest, load_manifest
from shards.format.table import open_table, table_offset
from shards.verify.check_shard import check_shard, check_shard_quickly
from shards.verify.problems import Problem, Report
from shards.verify.walk import ShardCheck

Mode: TypeAlias = Literal["quick", "default", "full"]
Progress: TypeAlias = Callable[[int, int], None]
_CHUNK = 1 << 20


def verify(path: str | Path, *, mode: Mode = "default", workers: int = 1, progress: Progress | None = None) -> Report:
    """Check a shard set; never raises for anything that is in the folder.

    Args:
        path: the set's folder.
        mode: ``quick`` looks at sizes and structure only, whatever the number of samples. ``default`` reads every
            byte and finds any that changed. ``full`` decodes every sample, too.
        workers: threads that check shards at the same time.
        progress: called with (shards done, shards in all).
    """
    folder = Path(path)
    report = Report(path=str(path), mode=mode)
    try:
        manifest = load_manifest(folder)
    except (FormatError, OSError) as error:
        report.files = 1
        report.add([Problem(kind="manifest", file=MANIFEST_NAME, message=str(error))])
        return report
    report.files = 1 + len(manifest.files())
    report.add(_strays(folder, manifest))
    report.add(_check_quarantine(folder, manifest, quick=mode == "quick"))
    jobs: list[_Job] = []
    for name in SPLITS:
        if name in manifest.splits:
            table, problems = _check_table(folder, manifest, name, quick=mode == "quick")
            report.add(problems)
            jobs += _jobs(folder, manifest, name, table, mode)
    checks: list[ShardCheck] = []
    with ThreadPoolExecutor(max(workers, 1)) as executor:
        for done, check in enumerate(executor.map(_run, jobs), start=1):
            checks.append(check)
            report.add(check.problems)
            if progress is not None:
                progress(done, len(jobs))
    report.samples = manifest.samples
    report.bytes = 0 if mode == "quick" else sum(entry.bytes for entry in manifest.files())
    if mode != "quick" and report.ok:
        report.add(_check_counts(manifest, jobs, checks, decoded=mode == "full"))
    return report


@dataclass(frozen=True)
class _Job:
    """A shard to be checked. ``rows`` is None where the table cannot be read."""

    folder: Path
    manifest: Manifest
    split: Split
    number: int
    rows: Rows | None
    mode: Mode


def _jobs(folder: Path, manifest: Manifest, name: Split, table: Rows | None, mode: Mode) -> Iterator[_Job]:
    start = 0
    for number, shard in enumerate(manifest.splits[name].shards):
        rows = None if table is None else table[start : start + shard.samples]
        start += shard.samples
        yield _Job(folder=folder, manifest=manifest, split=name, number=number, rows=rows, mode=mode)


def _run(job: _Job) -> ShardCheck:
    entry = job.manifest.splits[job.split].shards[job.number]
    try:
        if job.mode == "quick":
            return check_shard_quickly(job.folder, job.manifest, entry, job.rows, job.number)
        return check_shard(job.folder, job.manifest, job.split, job.number, job.rows, decode=job.mode == "full")
    except Exception as error:  # noqa: BLE001 - whatever garbage does to a check, it is a finding and not a crash
        message = f"cannot be checked: {type(error).__name__}: {error}"
        return ShardCheck(problems=[Problem(kind="missing", file=entry.file, message=message, shard=job.number)])


def check_file(folder: Path, entry: FileEntry, *, quick: bool) -> list[Problem]:
    """Check that a file is there, and its size and (unless ``quick``) its SHA-256."""
    path = folder / entry.file
    try:
        size = path.stat().st_size
        if size != entry.bytes:
            message = f"has {size} bytes, the manifest says {entry.bytes}"
            return [Problem(kind="size", file=entry.file, message=message, offset=min(size, entry.bytes))]
        if not quick and file_sha256(path) != entry.sha256:
            return [Problem(kind="checksum", file=entry.file, message="its SHA-256 is not the manifest's")]
    except OSError as error:
        return [Problem(kind="missing", file=entry.file, message=f"cannot be read: {error.strerror}")]
    return []


def file_sha256(path: Path) -> str:
    """Return the SHA-256 (hex) of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _check_table(folder: Path, manifest: Manifest, name: Split, *, quick: bool) -> tuple[Rows | None, list[Problem]]:
    """Check a split's table; return it if its records can be used."""
    entry = manifest.splits[name].table
    problems = check_file(folder, entry, quick=quick)
    try:
        table = open_table(folder / entry.file, samples=manifest.splits[name].samples)
    except FormatError as error:
        return None, problems or [Problem(kind="table", file=entry.file, message=str(error))]
    if quick or not problems:
        return table, problems
    bad: list[Problem] = []
    for start in range(0, len(table), _CHUNK):
        rows = table[start : start + _CHUNK]
        for index in np.flatnonzero(row_check(rows) != rows["check"]):
            number = start + int(index)
            message = f"the record of sample {number} of {name} does not fit its checksum"
            bad.append(Problem(kind="table", file=entry.file, message=message, offset=table_offset(number)))
    return table, [*problems, *bad]


def _check_quarantine(folder: Path, manifest: Manifest, *, quick: bool) -> list[Problem]:
    entry = manifest.audit.quarantine
    problems = check_file(folder, entry, quick=quick)
    if quick or problems:
        return problems
    try:
        lines = (folder / entry.file).read_text(encoding="ascii").splitlines()
        reasons = Counter(str(json.loads(line)["reason"]) for line in lines)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [Problem(kind="count", file=entry.file, message=f"cannot be read: {error}")]
    if dict(reasons) != manifest.audit.reasons:
        return [Problem(kind="count", file=entry.file, message="its reasons are not those that the manifest counts")]
    return []


def _check_counts(
    manifest: Manifest, jobs: list[_Job], checks: list[ShardCheck], *, decoded: bool
) -> Iterator[Problem]:
    """Compare the manifest's counts with what the samples say; only of a set that is sound otherwise."""
    for name, split in manifest.splits.items():
        own = [check for job, check in zip(jobs, checks, strict=True) if job.split == name]
        breeds = sum((check.breeds for check in own), Counter[str]())
        species = sum((check.species for check in own), Counter[str]())
        pixels = tuple(sum(check.class_pixels[i] for check in own) for i in range(3))
        claims = [("breeds", split.breeds, dict(breeds)), ("species", split.species, dict(species))]
        if decoded:
            claims.append(("class_pixels", dict(enumerate(split.class_pixels)), dict(enumerate(pixels))))  # type: ignore[arg-type]
        for what, claimed, counted in claims:
            if claimed != counted:
                message = f"{what} of {name}: the manifest says {claimed}, the samples say {counted}"
                yield Problem(kind="count", file=MANIFEST_NAME, message=message)


def _strays(folder: Path, manifest: Manifest) -> Iterator[Problem]:
    """Yield files that a reader of ``train-*.tar`` would take for a part of the set."""
    known = {entry.file for entry in manifest.files()}
    for name in sorted(entry.name for entry in folder.iterdir()):
        if name not in known and is_set_file(name):
            yield Problem(kind="stray", file=name, message="is named like a part of the set, and is none")
