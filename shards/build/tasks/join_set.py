"""Making a set of the shards that tasks have built: tables, audit file and manifest; the manifest is written last."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from shards.audit.duplicates import ReadTar
from shards.build.assemble import assemble
from shards.build.outcome.build_result import (
    BuildResult,
    check_finished_set,
    check_outcome,
    merged_palettes,
)
from shards.build.outcome.unclaimed import check_unclaimed, unclaimed_values
from shards.build.plan import PlanOutline
from shards.build.resume import final_names
from shards.build.staging import Staging, check_target
from shards.build.tasks.parts import ClaimedPlan, Parts
from shards.build.tasks.publish_in_store import publish_in_store
from shards.build.write_shard import ShardRecord
from shards.errors import FormatError, PetsegError, UsageError
from shards.format.layout import MANIFEST_NAME, Split
from shards.format.manifest import Manifest, dump_manifest, load_manifest
from shards.store.atomic import sync_file, sync_folder, write_atomically
from shards.store.store_protocol import ObjectMissingError, ObjectStatus

Progress = Callable[[int, int], None]
_SHOWN = 12


class IncompleteError(PetsegError):
    """Some shards of a set have not been built. ``shards`` and ``tasks`` say which; ``tasks`` is None if unknown."""

    def __init__(self, message: str, *, shards: Sequence[str], tasks: Sequence[int] | None) -> None:
        super().__init__(message)
        self.shards, self.tasks = tuple(shards), None if tasks is None else tuple(tasks)


def join(
    out: Path | str, *, overwrite: bool = False, strict: bool = False, progress: Progress | None = None
) -> BuildResult:
    """Make a set of the shards that all tasks have built, and publish it.

    Args:
        out: the folder or address that the tasks were given.
        overwrite: replace a finished set of another source or other options.
        strict: publish nothing if the audit found anything; the shards are kept.
        progress: called with (files done, files in all) while shards get their final names.

    A call that was interrupted goes on when it is repeated; if the set is finished, nothing happens.

    Raises:
        IncompleteError: shards are missing; it names the tasks.
        UsageError: no task was run, the labels do not fit the masks, no sample passed the audit, or OUT holds something
            else.
        StrictError: see ``strict``.
        BusyError: another process is at work on the same OUT.
        StoreError, OSError: OUT cannot be written; the same call goes on.
    """
    start = time.perf_counter()
    parts = Parts.of(out)
    if isinstance(out, Path):
        check_target(out)
    existing = _existing(parts, overwrite=overwrite)
    found = parts.claimed()
    if found is None and existing is not None:
        return BuildResult(out, existing, already_complete=True, seconds=time.perf_counter() - start)
    if found is None:
        raise UsageError(
            f"there is nothing to join for {out}: no task was run; start with: petseg-shard build SOURCE OUT --task 0 "
            "--tasks N"
        )
    claimed, _ = found
    digest = claimed.outline.digest
    if existing is not None and not (overwrite and existing.plan != digest):
        check_finished_set(existing, digest, out, strict=strict)
        if not overwrite or not _is_whole(parts, claimed):
            parts.clear()
            return BuildResult(out, existing, already_complete=True, seconds=time.perf_counter() - start)
    records = _all_records(parts, claimed.outline, progress=progress)
    check_unclaimed(records, claimed.outline)
    publish = publish_in_store if isinstance(out, str) and parts.target.local_path("") is None else _publish_folder
    try:
        manifest = publish(parts, claimed, records, overwrite=overwrite, strict=strict, progress=progress)
    except ObjectMissingError:
        # Another join of the same parts was faster, and has removed them.
        if (manifest_there := parts.published()) is None or manifest_there.plan != digest:
            raise
        return BuildResult(out, manifest_there, already_complete=True, seconds=time.perf_counter() - start)
    return BuildResult(
        out,
        manifest,
        resumed=len(records),
        seconds=time.perf_counter() - start,
        unclaimed=unclaimed_values(records),
        palettes=merged_palettes(records),
    )
