"""Publishing in an object store: files are copied or written first, the manifest last, by a conditional request.

A store has no rename, so the set's address holds files before it holds a set. It is one when its manifest is there, and
of several that publish at the same time only one can write that. Where a set is replaced, a note comes first in the
manifest's place: while that is there, there is no set, and nobody who has not written it can publish one.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from shards.audit.duplicates import ReadTar
from shards.build.assemble import assemble
from shards.build.outcome.build_result import check_outcome
from shards.build.resume import final_names
from shards.build.tasks.parts import CONCURRENT, ClaimedPlan, Parts
from shards.build.write_shard import ShardRecord
from shards.errors import PetsegError, UsageError, option
from shards.format.layout import MANIFEST_NAME, Split, is_set_file, shard_name
from shards.format.manifest import WITHDRAWN, Manifest, dump_manifest
from shards.store.owner_files import scratch_folder
from shards.store.store_protocol import (
    ObjectChangedError,
    ObjectExistsError,
    ObjectMissingError,
    ObjectStatus,
    Store,
)

Progress = Callable[[int, int], None]


def publish_in_store(
    parts: Parts,
    claimed: ClaimedPlan,
    records: Sequence[ShardRecord],
    *,
    replace: bool,
    strict: bool,
    progress: Progress | None,
) -> Manifest:
    """Copy the shards to their final names within the store, and write tables, audit file and manifest.

    Whatever is interrupted can be repeated: each name gets the same bytes again. With ``replace``, another set's
    manifest is withdrawn first; until the new one is written there is no set at the address.

    Raises ``PetsegError`` if another set was published meanwhile, and what :func:`check_outcome` raises, before
    anything is changed.
    """
    store, digest = parts.target, claimed.outline.digest
    folder = parts.folder(digest)
    names = {name: folder + entry.file for entry, name in final_names(records)}
    with scratch_folder("join") as scratch:
        manifest, findings = assemble(
            scratch, claimed.outline, records, read=_reader(store, names), versions=claimed.versions
        )
        check_outcome(manifest, strict=strict, findings=findings)
        for entry in manifest.files():  # copied like the shards: a command that replaces these removes what is copied
            names[entry.file] = folder + entry.file
            store.put(names[entry.file], scratch / entry.file)
    data = dump_manifest(manifest)
    note = begin(parts, data, digest, replace=replace)
    with ThreadPoolExecutor(CONCURRENT, "copy") as copiers:
        copies = copiers.map(lambda item: store.copy(item[1], item[0]), names.items())
        for done, _ in enumerate(copies, start=1):
            if progress is not None:
                progress(done, len(names))
    put_manifest(store, data, note)
    if replace:
        remove_strays(store, {*names})
    parts.clear(digest)
    return manifest


def begin(parts: Parts, data: bytes, digest: str, *, replace: bool) -> ObjectStatus | None:
    """Begin to write the files of a set whose manifest will be ``data``, if its claim still holds.

    With ``replace``, a note takes the manifest's place, whose version is returned for :func:`put_manifest`. Of two that
    replace a set by different ones, only one can have its note there, whatever their timing. Where ``data`` itself is
    there already it stays, since its files get the same bytes again: None then.

    Raises ``UsageError`` if another command has claimed the place, or this one's work is published already.
    """
    store, note = parts.target, WITHDRAWN + digest.encode()
    while True:
        found = manifest_at(store) if replace else None  # before the claim: what comes after that makes the put fail
        parts.check_claim(digest)
        if not replace or (found is not None and found[1] == data):
            return None
        if found is not None and found[1] == note:
            return found[0]
        with contextlib.suppress(ObjectExistsError, ObjectChangedError, ObjectMissingError):
            if found is None:
                return store.put(MANIFEST_NAME, note, if_absent=True)
            written = store.put(MANIFEST_NAME, note, if_match=found[0])
            try:
                parts.check_claim(digest)
            except UsageError:  # another command has just published the very set that was there
                store.put(MANIFEST_NAME, found[1], if_match=written)
                raise
            return written


def manifest_at(store: Store) -> tuple[ObjectStatus, bytes] | None:
    """Return the version and the content of the file in a manifest's place; None if there is none."""
    while True:
        with contextlib.suppress(ObjectChangedError):
            try:
                status = store.status(MANIFEST_NAME)
                return status, store.read(MANIFEST_NAME, match=status)
            except ObjectMissingError:
                return None


def put_manifest(store: Store, data: bytes, note: ObjectStatus | None = None) -> None:
    """Write the manifest of a set whose other files are there, in the place of a note; it may be there already.

    Raises ``PetsegError`` if there is another one, or another note.
    """
    try:
        store.put(MANIFEST_NAME, data, if_absent=note is None, if_match=note)
    except (ObjectExistsError, ObjectChangedError):
        if store.read(MANIFEST_NAME) != data:
            raise PetsegError(
                f"another set was published at {store.address} meanwhile; run the same again with "
                f"{option('overwrite', True)} to replace it, or choose another address"
            ) from None


def remove_strays(store: Store, files: set[str]) -> None:
    """Remove the files of an earlier, larger set: those that are named like a set's, except ``files``."""
    strays = [name for name, _ in store.list() if is_set_file(name) and name not in files]
    with ThreadPoolExecutor(CONCURRENT, "remove") as removers:
        list(removers.map(store.delete, strays))


def _reader(store: Store, names: Mapping[str, str]) -> ReadTar:
    def read(split: Split, number: int, offset: int, length: int) -> bytes:
        return store.read_range(names[shard_name(split, number)], offset, length)

    return read
