"""Files of a set as local ones: those of its folder, or those that the cache has of an object store."""

from pathlib import Path

from shards.errors import FormatError, UsageError
from shards.format.layout import Split
from shards.format.manifest import FileEntry, SplitEntry
from shards.format.npy import ShardTable
from shards.store.byte_ranges import check_shortage, read_regular
from shards.store.folder_store import FolderStore
from shards.store.remote.remote_files import FileSpec, RemoteFiles
from shards.store.store_protocol import Store


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
    return files.local_files(FileSpec(entry.file, entry.bytes, entry.sha256))[0].path


def fetch_tables(files: RemoteFiles, entry: SplitEntry) -> None:
    """Fetch both tables of a split at once, so that opening them waits for no second reply."""
    files.local_files(*(FileSpec(each.file, each.bytes, each.sha256) for each in (entry.table, entry.shard_table)))


def open_shard_table(store: Store, files: RemoteFiles | None, split: Split, entry: SplitEntry) -> ShardTable:
    """Return a split's table of shards; raises ``FormatError`` as :meth:`ShardTable.open` does."""
    if files is None:
        return ShardTable.open(local_folder(store), split, entry)
    path = local_file(store, files, entry.shard_table)
    return ShardTable.parse(read_regular(path), path, split, entry)


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
        raise FormatError(f"{path} has {size} bytes, the manifest says {entry.bytes}; build the set again")
