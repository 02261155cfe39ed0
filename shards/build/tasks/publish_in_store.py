"""Publishing in an object store: files are copied or written first, the manifest last, by a conditional request.

A store has no rename, so the set's address holds files before it holds a set. It is one when its manifest is there, and
of several that publish at the same time only one can write that.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from shards.audit.duplicates import ReadTar
from shards.build.assemble import assemble
from shards.build.outcome.build_result import check_outcome
from shards.build.resume import final_names
from shards.build.tasks.parts import CONCURRENT, ClaimedPlan, Parts
from shards.build.write_shard import ShardRecord
from shards.errors import PetsegError
from shards.format.layout import MANIFEST_NAME, Split, is_set_file, shard_name
from shards.format.manifest import Manifest, dump_manifest
from shards.store.store_protocol import ObjectExistsError, Store

Progress = Callable[[int, int], None]


class PublishedError(PetsegError):
    """Another set was published at the same address meanwhile."""


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

    Whatever is interrupted can be repeated: each name gets the same bytes again. With ``replace``, the manifest of a
    finished set is removed first; until the new one is written there is no set at the address.

    Raises ``PublishedError`` if another set was published meanwhile, and what :func:`check_outcome` raises, before
    anything is changed.
    """
    store, folder = parts.target, parts.folder(claimed.outline.digest)
    names = {name: folder + entry.file for entry, name in final_names(records)}
    with tempfile.TemporaryDirectory(prefix="petseg-join-") as scratch:
        manifest, findings = assemble(
            Path(scratch), claimed.outline, records, read=_reader(store, names), versions=claimed.versions
        )
        check_outcome(manifest, strict=strict, findings=findings)
        parts.check_claim(claimed.outline.digest)
        if replace:
            store.delete(MANIFEST_NAME)
        with ThreadPoolExecutor(CONCURRENT, "copy") as copiers:
            copies = copiers.map(lambda item: store.copy(item[1], item[0]), names.items())
            for done, _ in enumerate(copies, start=1):
                if progress is not None:
                    progress(done, len(names))
        for entry in manifest.files():
            store.put(entry.file, Path(scratch, entry.file))
    put_manifest(store, dump_manifest(manifest))
    if replace:
        remove_strays(store, {*names, *(entry.file for entry in manifest.files())})
    parts.clear()
    return manifest


def put_manifest(store: Store, data: bytes) -> None:
    """Write the manifest of a set whose other files are there; it succeeds too if it is there already.

    Raises ``PublishedError`` if there is another one.
    """
    try:
        store.put(MANIFEST_NAME, data, if_absent=True)
    except ObjectExistsError:
        if store.read(MANIFEST_NAME) != data:
            raise PublishedError(
                f"another set was published at {store.address} meanwhile; run the same command with --overwrite to "
                "replace it, or choose another address"
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
