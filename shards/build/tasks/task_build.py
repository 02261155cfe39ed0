"""One of several tasks that build a set together: its share of the shards, in any order, on any machine."""

import time
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from shards.build.engines.executors import refuse_nested_build
from shards.build.engines.missing_shards import Progress, build_missing
from shards.build.engines.open_executor import check_workers
from shards.build.options import PackOptions
from shards.build.outcome.build_result import check_finished_set
from shards.build.outcome.interruptions import interruptions_explained
from shards.build.outcome.library_versions import library_versions
from shards.build.plan import BuildPlan, make_plan, with_absolute_paths
from shards.build.staging import check_target
from shards.build.tasks.into_parts import IntoParts
from shards.build.tasks.parts import ClaimedPlan, Parts
from shards.build.tasks.scheduler_variables import TaskNumber
from shards.build.write_shard import ShardRecord, record_name
from shards.errors import PetsegError
from shards.format.readers.output_places import expect_no_mount
from shards.sources.choose_layout import scan
from shards.sources.layout_protocol import Source


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """A finished task."""

    number: TaskNumber
    path: Path | str  # of the set that it is a part of
    parts: str  # where the finished shards are
    shards: int  # of this task
    resumed: int  # of them, those that had been finished before
    audited: int  # images that this call audited
    seconds: float
    already_complete: bool = False  # the whole set is finished; nothing was done
    discarded: bool = False  # work of another source or other options was discarded
    ignored: int = 0  # files of the source that are not part of a dataset
    unread: tuple[str, ...] = ()  # files among images and masks that are neither, nor known litter
    reason: str = ""  # why the source's layout was taken, as a clause for people


def build_task(
    source: Path | str | Source,
    out: Path | str,
    options: PackOptions,
    *,
    number: TaskNumber,
    workers: int | None = None,
    executor: Executor | str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> TaskResult:
    """Build one task's share of a set; :func:`shards.build.tasks.join` then makes the set.

    The shards do not depend on how many tasks there are, nor on their order. Tasks that are run again, whether they
    failed, were killed or are still running elsewhere, build only what is not finished.

    Args:
        source, options, workers, executor, progress: as for :func:`shards.build.build_set.build`, the same in every
            task; the progress is that of this task.
        out: the folder or address of the set, the same for every task.
        number: which of how many.
        overwrite: discard shards of another source or other options; build even if OUT holds a finished set.

    Raises:
        UsageError: options do not go together or are not those of the other tasks, the labels do not fit the masks, or
            OUT holds something else.
        SourceError: the source cannot be used, or changed meanwhile.
        StoreError, OSError: OUT cannot be written. Finished shards are kept; the same call goes on.
    """
    refuse_nested_build()
    start = time.perf_counter()
    check_workers(workers, executor)
    parts = Parts.of(out)
    if isinstance(out, Path):
        check_target(out)
        expect_no_mount(out)
    found = source if isinstance(source, Source) else scan(source)
    plan = make_plan(found if executor is None else with_absolute_paths(found), options)
    mine = range(number.task, len(plan.tasks), number.tasks)

    def result(*, resumed: int = 0, audited: int = 0, complete: bool = False, discarded: bool = False) -> TaskResult:
        return TaskResult(
            number=number,
            path=out,
            parts=parts.address,
            shards=len(mine),
            resumed=resumed,
            audited=audited,
            seconds=time.perf_counter() - start,
            already_complete=complete,
            discarded=discarded,
            ignored=found.ignored,
            unread=found.unread,
            reason=found.reason,
        )

    if not overwrite and _is_complete(parts, plan.digest, out):
        return result(complete=True)
    parts.expect_outside()
    claim = ClaimedPlan(outline=plan.outline, versions=library_versions())
    discarded = parts.claim(claim, overwrite=overwrite)
    parts.announce(plan.digest, number.tasks)
    records = dict[int, ShardRecord]()
    try:
        with interruptions_explained(parts.address, lambda _: _kept(records, parts.address)):
            records |= _finished(parts, plan, mine)
            resumed = len(records)
            tasks = {index: plan.tasks[index] for index in mine}
            audited = sum(len(task.samples) for index, task in tasks.items() if index not in records)
            make = IntoParts(parts.store, parts.folder(plan.digest))
            build_missing(
                tasks, records, make, outline=plan.outline, workers=workers, executor=executor, progress=progress
            )
    except (OSError, PetsegError):
        # The same task was run twice, the set was joined meanwhile, and the folder of the parts removed.
        if not overwrite and parts.claimed() is None and _is_complete(parts, plan.digest, out):
            return result(complete=True)
        raise
    return result(resumed=resumed, audited=audited, discarded=discarded)


def _is_complete(parts: Parts, digest: str, out: Path | str) -> bool:
    """Return whether the set is finished; raise ``UsageError`` where OUT holds another one, or a damaged one."""
    existing = parts.published(overwrite=False)
    if existing is not None:
        check_finished_set(existing, digest, out, strict=False)
    return existing is not None


def _finished(parts: Parts, plan: BuildPlan, mine: range) -> dict[int, ShardRecord]:
    """Return the records of this task's shards that are finished and still of the same source; remove other records."""
    listed = parts.list(plan.digest)
    shards = {index: plan.outline.shards[index] for index in mine}
    records = parts.records(plan.digest, shards, listed)
    for index, record in list(records.items()):
        sizes = all(entry.file in listed and listed[entry.file].size == entry.bytes for entry in record.files)
        if not sizes or record.stamps != plan.tasks[index].stamps:
            del records[index]
    for index, shard in shards.items():
        name = record_name(shard.split, shard.number)
        if name in listed and index not in records:
            parts.store.delete(parts.folder(plan.digest) + name)
    return records


def _kept(records: Mapping[int, ShardRecord], place: str) -> str:
    """Return what stays when a task is interrupted, for people."""
    count = len(records)
    return f"{count} finished shard{' of this task is' if count == 1 else 's of this task are'} kept in {place}"
