"""Resuming an interrupted build: which shards are finished, complete, and still of the same source."""

import contextlib
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from shards.build.outcome.shard_records import read_record
from shards.build.plan import BuildPlan
from shards.build.staging import PLAN, Staging, remove
from shards.build.write_shard import ShardRecord, record_name
from shards.format.layout import Split, index_name, shard_name
from shards.format.manifest import FileEntry
from shards.store.atomic import file_sha256
from shards.store.byte_ranges import read_regular
from shards.store.refusals import rename_file


def finished_shards(staging: Staging, plan: BuildPlan) -> dict[int, ShardRecord]:
    """Return the records of shards that are finished and complete, by task index; remove everything else."""
    records: dict[int, ShardRecord] = {}
    for index, task in enumerate(plan.tasks):
        with contextlib.suppress(FileNotFoundError):
            data = read_regular(staging.work / record_name(task.split, task.number))
            record = read_record(data, split=task.split, number=task.number, planned=len(task.samples))
            if record is not None:
                records[index] = record
    if len(records) == len(plan.tasks):  # the build may have been killed while it gave the files their final names
        for source, target in moves(staging, records.values()):
            if target.exists() and not source.exists():
                rename_file(target, source)
    keep = {staging.work, staging.work / PLAN}
    for index, record in list(records.items()):
        files = {staging.work / entry.file: entry for entry in (record.tar, record.index)}
        unchanged = all(path.exists() and file_sha256(path) == entry.sha256 for path, entry in files.items())
        if unchanged and record.stamps == plan.tasks[index].stamps:
            keep |= {*files, staging.work / record_name(record.split, record.number)}
        else:
            del records[index]
    for path in {*staging.work.iterdir(), *staging.folder.iterdir()} - keep:
        remove(path)
    return records


def moves(staging: Staging, records: Iterable[ShardRecord]) -> Iterator[tuple[Path, Path]]:
    """Yield where each file of a shard is while the build runs, and where it belongs in the set."""
    for entry, name in final_names(records):
        yield staging.work / entry.file, staging.folder / name


def final_names(records: Iterable[ShardRecord]) -> Iterator[tuple[FileEntry, str]]:
    """Yield each file of some shards as it was built, and its name in the set.

    ``records`` are in the order of the plan; a shard without samples has no number in the set.
    """
    numbers: defaultdict[Split, Iterator[int]] = defaultdict(itertools.count)
    for record in records:
        if record.samples:
            number = next(numbers[record.split])
            yield record.tar, shard_name(record.split, number)
            yield record.index, index_name(record.split, number)
