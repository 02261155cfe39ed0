"""Files of a set as local ones: those of its folder, or those that the cache has of an object store."""

import contextlib
import operator
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from shards.errors import FormatError, UsageError, shown_value
from shards.format.layout import Split
from shards.format.manifest import FileEntry, Manifest, SplitEntry, load_manifest
from shards.format.npy import SampleTable, ShardTable
from shards.store.byte_ranges import check_shortage
from shards.store.folder_store import FolderStore
from shards.store.remote.remote_files import FileSpec, RemoteFiles
from shards.store.store_protocol import Store


class MadeByOpen:
    """What is opened by its method ``open``; calling the class with a path says so."""

    def __new__(cls, *args: Any, **_: Any) -> Self:
        """Return a new object; ``UsageError`` for a path."""
        if args and isinstance(args[0], str | Path):
            raise UsageError(f"open a set with {cls.__name__}.open({str(args[0])!r})")
        return super().__new__(cls)


def sample_number(index: Any) -> int:
    """Return which sample an integer, or a tensor or array of no dimension, names; ``UsageError`` for anything else."""
    try:
        return operator.index(index)
    except (TypeError, ValueError, RuntimeError):  # of a tensor of several numbers the last
        raise UsageError(
            f"a sample's index is one whole number, not {shown_value(index)}; ask for each of a batch: "
            "[loader.key(i) for i in batch.index]"
        ) from None


def local_folder(store: Store) -> Path:
    """Return the folder of a local store; raise ``UsageError`` for an object store."""
    if isinstance(store, FolderStore):
        return store.folder
    raise UsageError(
        f"{store.address} is not in a local folder, which this needs: petseg-shard copy makes a copy in one"
    )


def local_file(store: Store, files: RemoteFiles | None, entry: FileEntry) -> Path:
    """Return the local path of a file that the manifest describes, fetched and checked where it is remote."""
    if files is None:
        return local_folder(store) / entry.file
    return files.local_files(file_spec(entry))[0].path


def open_sample_table(store: Store, files: RemoteFiles | None, manifest: Manifest, entry: SplitEntry) -> SampleTable:
    """Return a split's table of samples; of a remote set, both of its tables are fetched.

    A record's checksum does not say of which set it is, so that of a folder is looked at once more, after the table has
    been opened: a set that has taken its place meanwhile would be read under the name of the other one.
    """
    if files is not None:
        found = files.local_files(file_spec(entry.table), file_spec(entry.shard_table))[0]
        # Not by its path: the cache may be removed at any time.
        return SampleTable(found.path, samples=entry.samples, descriptor=os.dup(found.descriptor))
    table = SampleTable(local_folder(store) / entry.table.file, samples=entry.samples)
    expect_same_set(store, manifest)
    return table


def open_shard_table(store: Store, files: RemoteFiles | None, split: Split, manifest: Manifest) -> ShardTable:
    """Return a split's table of shards; raises ``FormatError`` as :meth:`ShardTable.open` does."""
    entry = manifest.splits[split]
    if files is None:
        try:
            return ShardTable.open(local_folder(store) / entry.shard_table.file, split, entry)
        except FormatError:  # its checksum is the manifest's, so that of another set ends here
            expect_same_set(store, manifest)
            raise
    with cached_damage(files, entry.shard_table):
        found = files.local_files(file_spec(entry.shard_table))[0]
        return ShardTable.parse(found[:], found.path, split, entry)


def expect_same_set(store: Store, manifest: Manifest) -> None:
    """Raise ``FormatError`` if a folder holds another set than the manifest's, which was opened there."""
    if isinstance(store, FolderStore):
        found = load_manifest(store.folder).fingerprint
        if found != manifest.fingerprint:
            raise FormatError(
                f"{store.folder} holds another set than when it was opened: it was built again, or exchanged "
                f"(fingerprint {found[:12]}, it was {manifest.fingerprint[:12]}); start again to use this one, or put "
                "the other one back"
            )


@contextlib.contextmanager
def cached_damage(files: RemoteFiles | None, entry: FileEntry) -> Iterator[None]:
    """Within the block, an error of a file that is damaged in the cache says so: the set in the store is not."""
    try:
        yield
    except FormatError:
        if files is None or not files.forget_damaged(file_spec(entry)):
            raise
        raise FormatError(
            f"{entry.file} was damaged in the cache {files.cache.folder} and has been removed there; start again, and "
            "it is fetched anew"
        ) from None


def file_spec(entry: FileEntry) -> FileSpec:
    """Return the description of a file as the cache has it."""
    return FileSpec(entry.file, entry.bytes, entry.sha256)


def check_size(folder: Path, entry: FileEntry) -> None:
    """Raise ``FormatError`` unless the file exists with the size that the manifest states."""
    path = folder / entry.file
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise FormatError(f"{path} is missing; run petseg-shard verify, then build the set again") from None
    except OSError as error:
        check_shortage(error)
        raise FormatError(f"{path} cannot be read: {error.strerror}") from None
    if size != entry.bytes:
        raise FormatError(
            f"{path} has {size} bytes, the manifest says {entry.bytes}: it was cut off, exchanged with another, or "
            "is of another build; petseg-shard verify says which, and what to do"
        )
