"""Resuming an interrupted build: which shards are finished, complete, and still of the same source."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from shards.build.assemble import final_numbers
from shards.build.plan import BuildPlan
from shards.build.staging import Staging, remove
from shards.build.write_shard import ShardRecord, record_name
from shards.format.layout import index_name, shard_name
from shards.format.manifest import FileEntry


def finished_shards(staging: Staging, plan: BuildPlan) -> dict[int, ShardRecord]:
    """Return the records of shards that are finished and complete, by task index; remove everything else."""
    records: dict[int, ShardRecord] = {}
    for index, task in enumerate(plan.tasks):
        record = _read_record(staging.work / record_name(task.split, task.number))
        if record is not None:
            records[index] = record
    if len(records) == len(plan.tasks):  # the build may have been killed while it gave the files their final names
        for source, target in moves(staging, list(records.values())):
            if target.exists() and not source.exists():
                target.rename(source)
    keep = {"plan"}
    for index, task in enumerate(plan.tasks):
        record = records.pop(index, None)
        if record is None or task.stamps != record.stamps:
            continue
        if all(_is_unchanged(staging.work, entry) for entry in (record.tar, record.index)):
            records[index] = record
            keep |= {record.tar.file, record.index.file, record_name(task.split, task.number)}
    for entry in [*staging.work.iterdir(), *staging.folder.iterdir()]:
        if entry != staging.work and not (entry.parent == staging.work and entry.name in keep):
            remove(entry)
    return records


def _read_record(path: Path) -> ShardRecord | None:
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=ShardRecord)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _is_unchanged(folder: Path, entry: FileEntry) -> bool:
    try:
        with (folder / entry.file).open("rb") as handle:
            return os.fstat(handle.fileno()).st_size == entry.bytes and (
                hashlib.file_digest(handle, "sha256").hexdigest() == entry.sha256
            )
    except FileNotFoundError:
        return False


def moves(staging: Staging, records: Sequence[ShardRecord]) -> Iterator[tuple[Path, Path]]:
    """Yield where each file of a shard is while the build runs, and where it belongs in the set."""
    numbers = final_numbers(records)
    for record in records:
        if record.samples:
            number = numbers[record.split, record.number]
            yield staging.work / record.tar.file, staging.folder / shard_name(record.split, number)
            yield staging.work / record.index.file, staging.folder / index_name(record.split, number)
