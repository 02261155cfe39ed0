"""Copying a finished set between folders and object stores, checked against its manifest, which is written last."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from shards.build.staging import Staging, check_target
from shards.build.tasks.parts import ClaimedCopy, Parts
from shards.build.tasks.publish_in_store import begin, manifest_at, put_manifest, remove_strays
from shards.errors import FormatError, PetsegError, UsageError, counted, option, printable
from shards.format.layout import MANIFEST_NAME
from shards.format.manifest import FileEntry, Manifest, parse_manifest, read_manifest
from shards.format.npy import ShardTable
from shards.store.atomic import atomic_file, file_sha256, sync_folder, write_atomically
from shards.store.open_store import open_store
from shards.store.owner_files import scratch_folder
from shards.store.store_protocol import ObjectMissingError, Store, StoreError

Progress = Callable[[int, int], None]
CONCURRENT: Final = 8  # files at a time
_PART: Final = 1 << 24  # bytes of a file that are read at a time
_VERIFY: Final = "run petseg-shard verify on the source"


@dataclass(frozen=True, kw_only=True)
class CopyResult:
    """A copied set."""

    source: Path | str
    target: Path | str
    manifest: Manifest
    files: int  # of the set, the manifest included
    bytes: int  # of the set, but the manifest
    skipped: int = 0  # files that were there already, with the right content
    already_complete: bool = False  # the same set was at the target; nothing was done

    def __repr__(self) -> str:
        return f"<CopyResult: {counted(self.files, 'file')} of {printable(self.source)} in {printable(self.target)}>"


def copy_set(
    source: Path | str, target: Path | str, *, overwrite: bool = False, progress: Progress | None = None
) -> CopyResult:
    """Copy a finished set.

    Every file that is read is compared with the manifest: its size and its SHA-256. A copy that was interrupted goes on
    when it is repeated: files that are at the target already are read and compared, and those with the right content
    are kept. The set is one when its manifest is there, which comes last; a folder appears as a whole.

    Args:
        source: the folder or address of a finished set.
        target: the folder or address where it is to be.
        overwrite: replace the set at the target, also if it is the same one, or the unfinished work of another command.
        progress: called with (files done, files in all).

    Raises:
        FormatError: there is no set at the source, or it is damaged.
        UsageError: the target holds another set, or something else.
        PetsegError: another set was published at the target meanwhile.
        BusyError: another process is at work on the same folder.
        StoreError, OSError: the source cannot be read, or the target cannot be written.
    """
    origin, parts = open_store(source), Parts.of(target)
    if parts.target.address == Parts.of(source).target.address:
        raise UsageError(f"{source} cannot be copied to itself")
    if parts.is_local:
        check_target(parts.folder_path)
    data, manifest, entries = _contents(origin)
    total = sum(entry.bytes for entry in entries)

    def result(*, skipped: int = 0, complete: bool = False) -> CopyResult:
        return CopyResult(
            source=source,
            target=target,
            manifest=manifest,
            files=len(entries) + 1,
            bytes=total,
            skipped=skipped,
            already_complete=complete,
        )

    copy = _Copy(origin=origin, data=data, entries=tuple(entries), progress=progress)
    found = manifest_at(parts.target)
    there = None if found is None else found[1]
    if there == data and not overwrite:  # with it, files of the same set that are damaged are replaced, too
        copy.clean_up(parts)
        return result(complete=True)
    if there is not None and not overwrite:
        raise UsageError(
            f"{target} holds another set; use {option('overwrite', True)} to replace it, or choose another target"
        )
    if parts.is_local:
        return result(skipped=copy.to_folder(parts.folder_path))
    parts.expect_outside()
    try:
        return result(skipped=copy.to_store(parts, overwrite=overwrite, replace=there is not None))
    except PetsegError:
        if parts.claimed() is None and (found := manifest_at(parts.target)) is not None and found[1] == data:
            parts.clear_plan(copy.digest)
            return result(complete=True)  # another copy of the same set was faster
        raise


def _contents(store: Store) -> tuple[bytes, Manifest, list[FileEntry]]:
    """Return a set's manifest, as bytes and read, and all files that it describes."""
    data = read_manifest(store)
    manifest = parse_manifest(data, store.describe(MANIFEST_NAME))
    entries = manifest.files()
    for name, split in manifest.splits.items():
        path = Path(store.describe(split.shard_table.file))
        table = ShardTable.parse(store.read(split.shard_table.file), path, name, split)
        entries += (entry for shard in table for entry in (shard, shard.index))
    return data, manifest, entries


@dataclass(frozen=True, kw_only=True)
class _Copy:
    """What is to be copied."""

    origin: Store
    data: bytes  # of the manifest
    entries: tuple[FileEntry, ...]
    progress: Progress | None

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def to_folder(self, out: Path) -> int:
        """Copy the set into ``OUT.building``, which then becomes OUT; return how many files were there."""
        staging = Staging.beside(out)
        folder = staging.folder

        def bring(entry: FileEntry) -> bool:
            path = folder / entry.file
            if path.exists() and path.stat().st_size == entry.bytes and file_sha256(path) == entry.sha256:
                return True
            with atomic_file(path) as handle:
                self.fetch(entry, handle)
            return False

        with staging.locked():
            staging.prepare(self.digest)
            staging.remove_partials()
            skipped = self.all(bring)
            sync_folder(folder)
            write_atomically(folder / MANIFEST_NAME, self.data)
            staging.publish()
            staging.clean_up()
        return skipped

    def to_store(self, parts: Parts, *, overwrite: bool, replace: bool) -> int:
        """Copy the set into a store; return how many files were there.

        Where it is to ``replace`` a set, that one stays as it is until all files are in the store under other names.
        """
        store = parts.target
        parts.claim(ClaimedCopy(digest=self.digest), overwrite=overwrite)
        prefix = parts.folder(self.digest) if replace else ""
        there = {name: status.size for name, status in store.list(prefix.rstrip("/"))}
        note = begin(parts, self.data, self.digest, replace=overwrite and not replace)

        def bring(entry: FileEntry) -> bool:
            name = prefix + entry.file
            if there.get(name) == entry.bytes and _sha256(store, name, entry.bytes) == entry.sha256:
                return True
            file = scratch / entry.file
            with file.open("xb") as handle:
                self.fetch(entry, handle)
            parts.check_claim(self.digest)
            store.put(name, file)
            file.unlink()
            return False

        with scratch_folder("copy") as scratch:
            skipped = self.all(bring)
        sizes = {name: status.size for name, status in store.list(prefix.rstrip("/"))}
        for entry in self.entries:
            if (size := sizes.get(prefix + entry.file)) != entry.bytes:
                where = store.describe(prefix + entry.file)
                raise StoreError(
                    f"{where} has {size or 'no'} bytes instead of {entry.bytes} after it was written; run the same "
                    "command again"
                )
        if replace:
            note = begin(parts, self.data, self.digest, replace=True)
            with ThreadPoolExecutor(CONCURRENT, "copy") as threads:
                list(threads.map(lambda entry: store.copy(prefix + entry.file, entry.file), self.entries))
        parts.check_claim(self.digest)
        put_manifest(store, self.data, note)
        if overwrite:
            remove_strays(store, {entry.file for entry in self.entries})
        parts.clear(self.digest)
        return skipped

    def clean_up(self, parts: Parts) -> None:
        """Remove what a copy that was killed right at its end has left."""
        if parts.is_local:
            Staging.beside(parts.folder_path).clean_up_after_a_kill()
        else:
            parts.clear(self.digest)

    def all(self, bring: Callable[[FileEntry], bool]) -> int:
        """Call a function for every file, several at a time; return how often it returned True."""
        skipped = 0
        with ThreadPoolExecutor(CONCURRENT, "copy") as threads:
            for done, was_there in enumerate(threads.map(bring, self.entries), start=1):
                skipped += was_there
                if self.progress is not None:
                    self.progress(done, len(self.entries))
        return skipped

    def fetch(self, entry: FileEntry, handle: IO[bytes]) -> None:
        """Write a file's content to a handle; raise ``FormatError`` unless it is what the manifest says."""
        where = self.origin.describe(entry.file)
        try:
            digest = _sha256(self.origin, entry.file, entry.bytes, write=handle.write)
        except ObjectMissingError:
            raise FormatError(f"{where} is missing; {_VERIFY}") from None
        if digest is None:
            raise FormatError(f"{where} has not the {entry.bytes} bytes that the manifest says; {_VERIFY}")
        if digest != entry.sha256:
            raise FormatError(f"{where} is damaged: its SHA-256 is not the manifest's; {_VERIFY}")


def _sha256(store: Store, name: str, size: int, *, write: Callable[[bytes], object] = len) -> str | None:
    """Return the SHA-256 (hex) of a file, all of one version, and write its parts; None if it has another size."""
    status = store.status(name)
    if status.size != size:
        return None
    digest = hashlib.sha256()
    for start in range(0, size, _PART):
        part = store.read_range(name, start, min(_PART, size - start), match=status)
        digest.update(part)
        write(part)
    return digest.hexdigest()
