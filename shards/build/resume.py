"""Going on where a build was cut off: which shards are finished, whole, and still of the same source."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from shards.build.assemble import final_numbers
from shards.build.plan import Plan, ShardTask
from shards.build.staging import Staging, remove
from shards.build.write_shard import ShardRecord, record_name
from shards.format.layout import index_name, shard_name


def finished_shards(staging: Staging, plan: Plan) -> dict[int, ShardRecord]:
    """Return the records of shards that are finished and whole, by task number; remove everything else."""
    records: dict[int, ShardRecord] = {}
    for number, task in enumerate(plan.tasks):
        record = _read_record(staging.work / record_name(task.split, task.number))
        if record is not None:
            records[number] = record
    if len(records) == len(plan.tasks):
        _take_back(staging, records.values())
    for number, task in enumerate(plan.tasks):
        if number in records and not _is_whole(staging.work, task, records[number]):
            del records[number]
    keep = {"plan"}
    for record in records.values():
        keep.update(part_names(record))
        keep.add(record_name(record.split, record.number))
    for entry in staging.work.iterdir():
        if entry.name not in keep:
            remove(entry)
    for entry in staging.folder.iterdir():
        if entry != staging.work:
            remove(entry)
    return records


def _read_record(path: Path) -> ShardRecord | None:
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=ShardRecord)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _take_back(staging: Staging, records: Iterable[ShardRecord]) -> None:
    """Undo the moves of ``build``, where a kill came between them."""
    for source, target in moves(staging, list(records)):
        if target.exists() and not source.exists():
            target.rename(source)


def _is_whole(work: Path, task: ShardTask, record: ShardRecord) -> bool:
    """Return whether a finished shard is what its record says, and its source is what it was."""
    stamps = tuple((sample.pair.image_stamp, sample.pair.trimap_stamp) for sample in task.samples)
    if stamps != record.stamps:
        return False
    tar, index = part_names(record)
    return _has(work / tar, record.tar_bytes, record.sha256) and _has(
        work / index, record.index_bytes, record.index_sha256
    )


def _has(path: Path, size: int, sha256: str) -> bool:
    try:
        with path.open("rb") as handle:
            return os.fstat(handle.fileno()).st_size == size and (
                hashlib.file_digest(handle, "sha256").hexdigest() == sha256
            )
    except FileNotFoundError:
        return False


def moves(staging: Staging, records: Sequence[ShardRecord]) -> Iterator[tuple[Path, Path]]:
    """Yield where each file of a shard is while the build runs, and where it belongs in the set."""
    numbers = final_numbers(records)
    for record in records:
        if record.samples:
            number = numbers[record.split, record.number]
            finals = (shard_name(record.split, number), index_name(record.split, number))
            for part, final in zip(part_names(record), finals, strict=True):
                yield staging.work / part, staging.folder / final


def part_names(record: ShardRecord) -> tuple[str, str]:
    """Return the names of a shard's tar and index while the build runs."""
    return shard_name(record.split, record.number), index_name(record.split, record.number)
