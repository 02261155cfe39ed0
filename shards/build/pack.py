"""Building a shard set: plan, pack in parallel, assemble, publish; and going on where a build was cut off."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shards.audit.reasons import REASONS, Note
from shards.build.assemble import assemble, write_manifest
from shards.build.executors import build_in_process, default_workers, pool
from shards.build.options import Options, check_options, options_from
from shards.build.plan import Plan, make_plan
from shards.build.resume import finished_shards, moves, part_names
from shards.build.staging import Staging, check_target
from shards.build.write_shard import RECORD_ENDING, ShardRecord, build_shard
from shards.errors import FormatError, PetsegError, UsageError
from shards.format.layout import MANIFEST_NAME
from shards.format.manifest import Manifest, load_manifest
from shards.sources.pets import Source, scan
from shards.store.atomic import PARTIAL_PREFIX, sync_file, sync_folder

__all__ = ["Built", "Options", "StrictError", "build", "options_from"]

Progress = Callable[[int, int], None]
_FLUSHERS = 4  # files that are flushed at a time: a disk takes several for little more than one


class StrictError(PetsegError):
    """``--strict`` was asked for, and the audit found something. ``notes`` are the findings."""

    def __init__(self, message: str, notes: Sequence[Note] = ()) -> None:
        super().__init__(message)
        self.notes = tuple(notes)


@dataclass(frozen=True)
class Built:
    """A finished build.

    Attributes:
        path: the set's folder.
        manifest: what the set is.
        resumed: shards that an earlier, interrupted build had finished.
        already: the set was there already, complete, of the same source and options; nothing was done.
        ignored: files of the source that are no part of a dataset.
        forgotten: unfinished work of another source or other options was thrown away.
        audited: pictures that this call went through, whether packed or left out; not those of ``resumed`` shards.
        seconds: how long the call took, from looking through the source to the finished set on the disk. It is in no
            file of the set.
    """

    path: Path
    manifest: Manifest
    resumed: int = 0
    already: bool = False
    ignored: int = 0
    forgotten: bool = False
    audited: int = 0
    seconds: float = 0.0


def build(
    source: Path | Source,
    out: Path,
    options: Options,
    *,
    workers: int | None = None,
    executor: Executor | None = None,
    overwrite: bool = False,
    strict: bool = False,
    progress: Progress | None = None,
) -> Built:
    """Build a shard set from a folder in the official layout.

    Args:
        source: the folder, or what :func:`shards.sources.pets.scan` found in it.
        out: the set's folder; it appears when the set is complete.
        options: what decides the bytes.
        workers: processes; default: the cores that this process may use. The bytes do not depend on it. In a process
            that runs threads or has imported torch they are not forked from it but started afresh, so that a script
            needs Python's usual ``if __name__ == "__main__":``.
        executor: takes the place of the processes, for instance a cluster's; its workers must see the same folders.
        overwrite: replace a finished set, as a whole.
        strict: fail, and publish nothing, if the audit finds anything.
        progress: called with (samples done, samples in all).

    Raises:
        UsageError: options do not fit, or OUT holds something else.
        SourceError: the source cannot be used, or changed meanwhile.
        StrictError: see ``strict``.
        BusyError: another build is at work on the same OUT.
        OSError: the disk is full, or OUT cannot be written. Finished shards are kept; the same call goes on.
    """
    start = time.perf_counter()
    check_options(options)
    if workers is not None and workers < 1:
        raise UsageError(f"--workers {workers} is not a positive number")
    check_target(out)
    found = source if isinstance(source, Source) else scan(source)
    plan = make_plan(found, options)
    staging = Staging.beside(out)
    with staging.locked(), _explained(staging):
        done = _already_there(staging, plan, overwrite=overwrite, strict=strict)
        if done is not None:
            staging.discard()
            seconds = time.perf_counter() - start
            return Built(path=out, manifest=done, already=True, ignored=found.ignored, seconds=seconds)
        forgotten = staging.prepare(plan.digest)
        records = {} if staging.complete else finished_shards(staging, plan)
        resumed, audited = len(records), 0
        if staging.complete:
            sync_folder(staging.folder)  # a power cut may have come before that
        else:
            audited = sum(len(task.samples) for number, task in enumerate(plan.tasks) if number not in records)
            _pack(plan, staging, records, workers=workers, executor=executor, progress=progress)
            _complete(plan, staging, records, strict=strict)
        manifest = load_manifest(staging.folder)
        if strict and manifest.audit.reasons:  # an interrupted build without --strict had come this far
            staging.discard()
            raise StrictError(f"--strict: {describe_reasons(manifest.audit.reasons)}; nothing was built")
        staging.publish()
        staging.clean_up()
    return Built(
        path=out,
        manifest=manifest,
        resumed=resumed,
        ignored=found.ignored,
        forgotten=forgotten,
        audited=audited,
        seconds=time.perf_counter() - start,
    )


def _already_there(staging: Staging, plan: Plan, *, overwrite: bool, strict: bool) -> Manifest | None:
    """Return the manifest of a finished set that the same build has made; None if there is work to do."""
    if not (staging.out / MANIFEST_NAME).exists():
        return None
    just_published = staging.published()
    if just_published:
        staging.clean_up(keep_folder=True)
    try:
        manifest = load_manifest(staging.out)
    except FormatError as error:
        if overwrite:
            return None
        raise UsageError(f"{error} (--overwrite replaces it)") from None
    if overwrite and not (just_published and manifest.plan == plan.digest):
        return None
    if manifest.plan != plan.digest:
        raise UsageError(
            f"{staging.out} holds a finished set of another source or other options; "
            "use --overwrite to replace it, or choose another folder"
        )
    if strict and manifest.audit.reasons:
        raise StrictError(f"{staging.out} was built without --strict: {describe_reasons(manifest.audit.reasons)}")
    return manifest


def _pack(
    plan: Plan,
    staging: Staging,
    records: dict[int, ShardRecord],
    *,
    workers: int | None,
    executor: Executor | None,
    progress: Progress | None,
) -> None:
    """Build the shards that are missing, the largest first, add their records, and flush all shards to the disk."""
    total = sum(len(task.samples) for task in plan.tasks)
    done = sum(len(plan.tasks[number].samples) for number in records)
    missing = [number for number in range(len(plan.tasks)) if number not in records]
    missing.sort(key=lambda number: -len(plan.tasks[number].samples))
    if progress is not None:
        progress(done, total)
    with ThreadPoolExecutor(_FLUSHERS, "flush") as flusher:  # the disk writes while the workers decode
        flushes: list[Future[None]] = []

        def flush(record: ShardRecord) -> None:
            if not flushes:  # not earlier: processes are forked only where no other thread runs
                flushes.append(flusher.submit(staging.flush_plan))
            flushes.extend(flusher.submit(sync_file, staging.work / name) for name in part_names(record))

        unflushed = list(records.values())  # of a build that was cut off, perhaps before it had flushed them
        for number, record in _results(plan, missing, str(staging.work), workers=workers, executor=executor):
            records[number] = record
            unflushed.append(record)
            while unflushed:
                flush(unflushed.pop())
            done += len(plan.tasks[number].samples)
            if progress is not None:
                progress(done, total)
        while unflushed:
            flush(unflushed.pop())
        for future in flushes:
            future.result()


def _results(
    plan: Plan, missing: Sequence[int], folder: str, *, workers: int | None, executor: Executor | None
) -> Iterator[tuple[int, ShardRecord]]:
    """Yield task numbers with their shards' records, as they are finished."""
    if not missing:
        return
    cores = workers or default_workers()
    if executor is not None:
        yield from _submitted(plan, missing, folder, executor, build_shard)
    elif cores == 1:
        for number in missing:
            yield number, build_shard(plan.tasks[number], folder)
    else:
        with pool(cores, len(missing)) as own:
            results = _submitted(plan, missing, folder, own.executor, build_in_process)
            for finished, result in enumerate(results, start=1):
                own.share(len(missing) - finished)
                yield result


def _submitted(
    plan: Plan, missing: Sequence[int], folder: str, executor: Executor, function: Callable[..., ShardRecord]
) -> Iterator[tuple[int, ShardRecord]]:
    """Have an executor build shards; yield them as :func:`_results` does."""
    futures: dict[Future[ShardRecord], int] = {}
    try:
        for number in missing:
            futures[executor.submit(function, plan.tasks[number], folder)] = number
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BaseException:
        for future in futures:
            future.cancel()
        raise


def _complete(plan: Plan, staging: Staging, records: dict[int, ShardRecord], *, strict: bool) -> None:
    """Move the shards to their final names and write tables, quarantine file and manifest."""
    ordered = [records[number] for number in sorted(records)]
    for source, target in moves(staging, ordered):
        source.rename(target)
    manifest, notes = assemble(staging.folder, plan, ordered)
    if not manifest.samples:
        staging.discard()
        raise UsageError(f"no sample passed the audit: {describe_reasons(manifest.audit.reasons)}; nothing was built")
    if strict and notes:
        staging.discard()
        raise StrictError(f"--strict: {describe_reasons(manifest.audit.reasons)}; nothing was built", notes)
    small = [manifest.audit.quarantine.file, *(split.table.file for split in manifest.splits.values())]
    with ThreadPoolExecutor(_FLUSHERS, "flush") as flusher:  # the shards are flushed already
        list(flusher.map(sync_file, [staging.folder / name for name in small]))
    sync_folder(staging.folder)
    write_manifest(staging.folder, manifest)


@contextmanager
def _explained(staging: Staging) -> Iterator[None]:
    """Say what an interrupted build leaves behind and how to go on; leave nothing where nothing was finished."""
    try:
        yield
    except BrokenProcessPool:
        kept = _leave(staging)
        raise PetsegError(
            "; ".join(
                ["a worker process was killed, perhaps for lack of memory"]
                + [kept] * bool(kept)
                + ["run the same command again, with a smaller --workers if it happens again"]
            )
        ) from None
    except KeyboardInterrupt as error:
        kept = _leave(staging)
        error.add_note(f"{kept}; run the same command again to go on" if kept else "nothing was finished yet")
        raise
    except OSError as error:
        kept = _leave(staging)
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            error.filename = str(staging.folder)
        if kept:
            error.add_note(kept)
        raise
    except PetsegError:
        _leave(staging)
        raise


def _leave(staging: Staging) -> str:
    """Remove partial files, and the staging folder if no shard was finished; return what to tell."""
    if not staging.folder.is_dir():
        return ""
    for partial in [*staging.work.glob(f"{PARTIAL_PREFIX}*"), *staging.folder.glob(f"{PARTIAL_PREFIX}*")]:
        partial.unlink(missing_ok=True)
    finished = len(list(staging.work.glob(f"*{RECORD_ENDING}")))
    if finished or staging.complete:
        return f"{finished} finished shards are kept in {staging.folder}"
    if staging.planned() or not any(staging.folder.iterdir()):
        staging.discard()
    return ""


def describe_reasons(reasons: dict[str, int]) -> str:
    """Return counts by reason in one line: ``2 not-listed (no list names the picture), ...``."""
    return ", ".join(f"{count} {reason} ({REASONS[reason]})" for reason, count in reasons.items())
