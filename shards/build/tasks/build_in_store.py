"""Building a set in an object store on one machine: one task, and a join."""

from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

from shards.build.engines.missing_shards import Progress
from shards.build.options import PackOptions
from shards.build.outcome.build_result import BuildResult, check_finished_set
from shards.build.tasks.join_set import join
from shards.build.tasks.parts import Parts
from shards.build.tasks.scheduler_variables import TaskNumber
from shards.build.tasks.task_build import build_task
from shards.sources.layout_protocol import Source


def build_in_store(
    source: Path | str | Source,
    out: str,
    options: PackOptions,
    *,
    workers: int | None,
    executor: Executor | str | None,
    overwrite: bool,
    strict: bool,
    progress: Progress | None,
) -> BuildResult:
    """Build a set in a store; see :func:`shards.build.build_set.build`.

    Other than in a folder, work of another source or other options that is not finished is only discarded with
    ``overwrite``: another machine may be at it.
    """
    task = build_task(
        source,
        out,
        options,
        number=TaskNumber(task=0, tasks=1, origin=""),
        workers=workers,
        executor=executor,
        overwrite=overwrite,
        progress=progress,
    )
    if task.already_complete:
        parts = Parts.of(out)
        manifest = parts.published(overwrite=False)
        assert manifest is not None
        check_finished_set(manifest, manifest.plan, out, strict=strict)
        parts.clear(manifest.plan)  # of a build that was killed while it did so
        joined = BuildResult(out, manifest, already_complete=True)
    else:
        joined = join(out, overwrite=overwrite, strict=strict)
    return replace(
        joined,
        resumed=task.resumed,
        ignored=task.ignored,
        unread=task.unread,
        discarded=task.discarded,
        audited=task.audited,
        seconds=task.seconds + joined.seconds,
        reason=task.reason,
    )
