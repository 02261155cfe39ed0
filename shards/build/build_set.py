"""Building a shard set: plan, build the shards in parallel, assemble, publish; and resuming an interrupted build."""

import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from shards.audit.findings import SampleFinding
from shards.build.assemble import assemble, tar_reader, write_manifest_last
from shards.build.engines.executors import refuse_nested_build
from shards.build.engines.missing_shards import Progress, build_missing
from shards.build.engines.open_executor import check_workers
from shards.build.engines.shard_maker import IntoFolder
from shards.build.options import PackOptions
from shards.build.outcome.build_result import (
    BuildResult,
    StrictError,
    check_finished_set,
    check_outcome,
    merged_palettes,
)
from shards.build.outcome.interruptions import interruptions_explained
from shards.build.outcome.unclaimed import LabelsMismatchError, unclaimed_values
from shards.build.plan import BuildPlan, make_plan, with_absolute_paths
from shards.build.resume import finished_shards, moves
from shards.build.staging import WORK, Staging, check_target, remove_set
from shards.build.tasks.build_in_store import build_in_store
from shards.build.write_shard import ShardRecord
from shards.errors import FormatError, UsageError, option
from shards.format.layout import MANIFEST_NAME
from shards.format.manifest import Manifest, load_manifest
from shards.sources.choose_layout import scan
from shards.sources.layout_protocol import Source
from shards.store.addresses import is_remote
from shards.store.atomic import sync_file, sync_folder
from shards.store.refusals import rename_file

_FLUSHERS = 4  # files that are flushed at a time: a disk takes several for little more than one


def build(
    source: Path | str | Source,
    out: Path | str,
    options: PackOptions,
    *,
    workers: int | None = None,
    executor: Executor | str | None = None,
    overwrite: bool = False,
    strict: bool = False,
    progress: Progress | None = None,
) -> BuildResult:
    """Build a shard set.

    Args:
        source: what :func:`shards.sources.scan` found, or its folder; text may be an address in a store.
        out: the set's folder; it appears when the set is complete. Text may be an address in a store, see
            :func:`shards.build.tasks.build_in_store.build_in_store`.
        options: what decides the bytes.
        workers: processes; default: the cores that this process may use. The bytes do not depend on it. In a process
            that runs threads or has imported torch they are not forked from it but started afresh, so that a script
            needs Python's usual ``if __name__ == "__main__":``; without it, this raises ``UsageError``.
        executor: replaces the processes: an executor, or a cluster's as ``--executor`` takes it, see
            :func:`shards.build.engines.open_executor`; its workers must see the same folders under the same paths.
        overwrite: replace a finished set, as a whole.
        strict: fail, and publish nothing, if the audit finds anything.
        progress: called with (samples done, samples in all).

    Raises:
        UsageError: options do not go together, the labels do not fit the masks, or OUT holds something else.
        SourceError: the source cannot be used, or changed meanwhile.
        StrictError: see ``strict``.
        BusyError: another build is using the same OUT.
        OSError: the disk is full, or OUT cannot be written. Finished shards are kept; the same call resumes.
    """
    if is_remote(out):
        return build_in_store(
            source,
            out,
            options,
            workers=workers,
            executor=executor,
            overwrite=overwrite,
            strict=strict,
            progress=progress,
        )
    out = Path(out)
    refuse_nested_build()
    start = time.perf_counter()
    check_workers(workers, executor)
    check_target(out)
    found = source if isinstance(source, Source) else scan(source)
    plan = make_plan(found if executor is None else with_absolute_paths(found), options)
    staging = Staging.beside(out)
    result = partial(BuildResult, out, ignored=found.ignored, unread=found.unread, reason=found.reason)

    with staging.locked(), interruptions_explained(str(staging.folder), partial(_kept, staging)):
        manifest = _finished_set(staging, plan, overwrite=overwrite, strict=strict)
        if manifest is not None:
            remove_set(staging.folder)
            return result(manifest, already_complete=True, seconds=time.perf_counter() - start)
        discarded = staging.prepare(plan.digest)
        findings: list[SampleFinding] = []
        records: dict[int, ShardRecord] = {}
        resumed = audited = 0
        if (staging.folder / MANIFEST_NAME).exists():  # complete, not yet published
            sync_folder(staging.folder)  # a power cut may have come before that
        else:
            records = finished_shards(staging, plan)
            resumed = len(records)
            audited = sum(len(task.samples) for index, task in enumerate(plan.tasks) if index not in records)
            _build_and_flush(plan, staging, records, workers=workers, executor=executor, progress=progress)
            findings = _complete(plan, staging, records)
        manifest = load_manifest(staging.folder)
        try:
            check_outcome(manifest, strict=strict, findings=findings)
        except StrictError:
            remove_set(staging.folder)
            raise
        staging.publish()
        staging.clean_up()
    return result(
        manifest,
        resumed=resumed,
        discarded=discarded,
        audited=audited,
        seconds=time.perf_counter() - start,
        unclaimed=unclaimed_values(records.values()),
        palettes=merged_palettes(records.values()),
    )


def _finished_set(staging: Staging, plan: BuildPlan, *, overwrite: bool, strict: bool) -> Manifest | None:
    """Return the manifest of a finished set that the same build has made; None if there is work to do."""
    if not (staging.out / MANIFEST_NAME).exists():
        return None
    just_published = (staging.out / WORK).is_dir()  # and then killed before it had cleaned up
    if just_published:
        staging.clean_up(keep_folder=True)
    try:
        manifest = load_manifest(staging.out)
    except FormatError as error:
        if overwrite:
            return None
        raise UsageError(f"{error} ({option('overwrite', True)} replaces it)") from None
    if overwrite and not (just_published and manifest.plan == plan.digest):
        return None
    check_finished_set(manifest, plan.digest, staging.out, strict=strict)
    return manifest


def _build_and_flush(
    plan: BuildPlan,
    staging: Staging,
    records: dict[int, ShardRecord],
    *,
    workers: int | None,
    executor: Executor | str | None,
    progress: Progress | None,
) -> None:
    """Build the missing shards, add their records, and flush all shards to the disk."""
    with ThreadPoolExecutor(_FLUSHERS, "flush") as flusher:  # the disk writes while the workers decode
        flushes: list[Future[None]] = []
        unflushed = list(records.values())  # of an interrupted build, perhaps interrupted before it flushed them

        def flush(*built: ShardRecord) -> None:
            if not flushes:
                flushes.append(flusher.submit(staging.flush_plan))
            unflushed.extend(built)
            while unflushed:
                for entry in unflushed.pop().files:
                    flushes.append(flusher.submit(sync_file, staging.work / entry.file))

        # The first flush waits for the first shard: processes are forked only where no other thread runs.
        build_missing(
            dict(enumerate(plan.tasks)),
            records,
            IntoFolder(str(staging.work)),
            outline=plan.outline,
            workers=workers,
            executor=executor,
            progress=progress,
            finished=flush,
        )
        flush()
        for future in flushes:
            future.result()


def _complete(plan: BuildPlan, staging: Staging, records: dict[int, ShardRecord]) -> list[SampleFinding]:
    """Move the shards to their final names and write tables, audit file and manifest; return all findings."""
    ordered = [records[index] for index in sorted(records)]
    for source, target in moves(staging, ordered):
        rename_file(source, target)
    manifest, findings = assemble(staging.folder, plan.outline, ordered, read=tar_reader(staging.folder.joinpath))
    try:
        check_outcome(manifest, strict=False, findings=findings)
    except UsageError:
        remove_set(staging.folder)
        raise
    write_manifest_last(staging.folder, manifest)  # the shards are flushed already
    return findings


def _kept(staging: Staging, error: BaseException) -> str:
    """Return what an interrupted build keeps, for people; leave no files where nothing was finished."""
    if isinstance(error, LabelsMismatchError) and staging.folder.is_dir():
        remove_set(staging.folder)  # with other labels every shard is another one
    return staging.keep_finished()
