"""Making a set of the shards that tasks have built: tables, audit file and manifest; the manifest is written last."""

import shlex
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from shards.build.assemble import assemble, tar_reader, write_manifest_last
from shards.build.outcome.build_result import BuildResult, check_finished_set, check_outcome, merged_palettes
from shards.build.outcome.unclaimed import check_unclaimed, unclaimed_values
from shards.build.plan import PlanOutline
from shards.build.resume import final_names
from shards.build.staging import Staging, check_target, remove_set
from shards.build.tasks.parts import ClaimedPlan, Parts
from shards.build.tasks.publish_in_store import publish_in_store
from shards.build.write_shard import ShardRecord
from shards.errors import PetsegError, UsageError, listed, spelled
from shards.format.layout import MANIFEST_NAME, shard_name
from shards.format.manifest import Manifest, load_manifest
from shards.store.refusals import rename_file

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

    def complete(manifest: Manifest) -> BuildResult:
        return BuildResult(out, manifest, already_complete=True, seconds=time.perf_counter() - start)

    found = parts.claimed()  # first: another join removes the claim when its manifest is there
    existing = parts.published(overwrite=overwrite)
    if found is None and existing is None:
        raise UsageError(
            f"there is nothing to join for {out}: no task was run; start with: petseg-shard build SOURCE "
            f"{shlex.quote(str(out))} --task 0 --tasks N"
        )
    if existing is not None and (found is None or not overwrite):
        digest = existing.plan if found is None else found[0].digest
        check_finished_set(existing, digest, out, strict=strict)
        _clean_up(parts, digest)
        return complete(existing)
    assert found is not None
    claimed = found[0]
    if not isinstance(claimed, ClaimedPlan):
        raise UsageError(f"a set is being copied to {out}: run the same petseg-shard copy again to finish it")
    publish = _publish_folder if parts.is_local else partial(publish_in_store, replace=overwrite)
    try:
        records = all_records(parts, claimed.outline)
        check_unclaimed(records, claimed.outline)
        manifest = publish(parts, claimed, records, strict=strict, progress=progress)
    except (PetsegError, OSError):
        there = parts.published(overwrite=True)
        if parts.claimed() is None and there is not None and there.plan == claimed.outline.digest:
            parts.clear_plan(there.plan)
            return complete(there)  # another join of the same shards was faster
        raise
    return BuildResult(
        out,
        manifest,
        seconds=time.perf_counter() - start,
        unclaimed=unclaimed_values(records),
        palettes=merged_palettes(records),
    )


def all_records(parts: Parts, outline: PlanOutline) -> list[ShardRecord]:
    """Return the records of all shards in the order of the plan; raise ``IncompleteError`` if any is missing."""
    listed = parts.list(outline.digest)
    shards = dict(enumerate(outline.shards))
    records = parts.records(outline.digest, shards, listed)
    there = {name: status.size for name, status in listed.items()}
    if parts.is_local and len(records) == len(shards):  # a join that was interrupted has moved some
        folder = Staging.beside(parts.folder_path).folder
        for entry, name in final_names(records[index] for index in shards):
            if entry.file not in there and (folder / name).exists():
                there[entry.file] = (folder / name).stat().st_size
    for index, record in list(records.items()):
        if record.samples and any(there.get(entry.file) != entry.bytes for entry in record.files):
            del records[index]
    missing = [index for index in shards if index not in records]
    if missing:
        raise _incomplete(parts, outline, missing, Parts.announced(listed))
    return [records[index] for index in shards]


def _incomplete(parts: Parts, outline: PlanOutline, missing: Sequence[int], announced: set[int]) -> IncompleteError:
    """Return the error that names what is missing: by task where all tasks agree about how many there are."""
    names = [shard_name(outline.shards[index].split, outline.shards[index].number) for index in missing]
    what = f"{len(missing)} of {len(outline.shards)} shards of {parts.address} have not been built"
    if len(announced) == 1:
        (tasks,) = announced
        which = sorted({index % tasks for index in missing})
        numbers = listed(map(str, which), most=_SHOWN)
        one = len(which) == 1
        text = f"{what}: those of task{'' if one else 's'} {numbers} of {tasks}, counted from 0"
        return IncompleteError(f"{text}; run {'it' if one else 'them'} again, then join", shards=names, tasks=which)
    text = f"{what}: {listed(names, most=_SHOWN)}; run the tasks again, or all that is left as one"
    return IncompleteError(f"{text}{spelled(', with --task=0 and --tasks=1; then join')}", shards=names, tasks=None)


def _publish_folder(
    parts: Parts,
    claimed: ClaimedPlan,
    records: Sequence[ShardRecord],
    *,
    strict: bool,
    progress: Progress | None,
) -> Manifest:
    """Make the set in ``OUT.building`` and give it its name, as a build on one machine does."""
    staging, digest = Staging.beside(parts.folder_path), claimed.outline.digest
    shards = parts.local_folder(digest)
    with staging.locked():
        if parts.claimed() is None:  # another join has just published them
            staging.keep_finished()
            raise FileNotFoundError(parts.address)
        staging.prepare(digest)
        folder = staging.folder
        staging.remove_partials()  # of a join that was killed
        if not (folder / MANIFEST_NAME).exists():
            moves = [(shards / entry.file, folder / name) for entry, name in final_names(records)]
            places = {target.name: source if source.exists() else target for source, target in moves}
            try:
                manifest, findings = assemble(
                    folder, claimed.outline, records, read=tar_reader(places.__getitem__), versions=claimed.versions
                )
                check_outcome(manifest, strict=strict, findings=findings)
            except PetsegError:
                if not any(folder.glob("*.tar")):
                    remove_set(folder)
                raise
            for done, (source, target) in enumerate(moves, start=1):
                if source.exists():
                    rename_file(source, target)
                if progress is not None:
                    progress(done, len(moves))
            write_manifest_last(folder, manifest)
        manifest = load_manifest(folder)
        staging.publish()
        staging.clean_up()
    parts.clear(digest)
    return manifest


def _clean_up(parts: Parts, digest: str) -> None:
    """Remove what a join has left that was interrupted after it had published the set of a plan."""
    if parts.is_local:
        Staging.beside(parts.folder_path).clean_up_after_a_kill()
    parts.clear(digest)
