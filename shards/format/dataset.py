"""Opening a finished shard set and reading its samples, in constant time and memory for any number of samples."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
from zlib_ng import zlib_ng

from shards.errors import FormatError, SampleError, UsageError, printable
from shards.format.keys import candidate_keys, shown
from shards.format.layout import (
    SPLITS,
    Rows,
    Split,
    extensions_of,
    is_unsound,
    key_hash,
    member_span,
    shard_name,
    table_offset,
)
from shards.format.manifest import FileEntry, Manifest, SplitEntry, load_manifest
from shards.format.npy import SampleTable, ShardTable
from shards.format.readers import set_files
from shards.format.readers.remote_split import check_unused, open_remote_set, remote_tars
from shards.format.tar import image_header, sample_key
from shards.public_calls import suggests_names
from shards.store.byte_ranges import ByteRanges, OpenFiles, check_shortage
from shards.store.folder_store import FolderStore
from shards.store.open_store import open_store
from shards.store.remote.cached_tars import CachedTars
from shards.store.remote.remote_files import Fetch, RemoteFiles
from shards.store.store_protocol import Store

MAX_OPEN: Final = 64  # tars of a split that are kept open, at most
META_KEYS: Final = ("key", "name", "split", "width", "height")  # what KEY.json always holds


@dataclass(frozen=True)
class SplitReader:
    """The samples of one split, by index, in the order of the shards; safe to use in several threads and to pickle."""

    store: Store
    name: Split
    manifest: Manifest = field(repr=False)  # pages long
    files: RemoteFiles | None = field(default=None, repr=False)  # of a set in an object store, else None
    _tars: OpenFiles = field(default_factory=lambda: OpenFiles(MAX_OPEN), repr=False, compare=False)

    def __len__(self) -> int:
        return self.entry.samples

    def __getstate__(self) -> dict[str, Any]:
        return {"store": self.store, "name": self.name, "manifest": self.manifest, "files": self.files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _tars=OpenFiles(MAX_OPEN))

    @property
    def entry(self) -> SplitEntry:
        """The split's part of the manifest."""
        return self.manifest.splits[self.name]

    @property
    def folder(self) -> Path:
        """The set's folder; ``UsageError`` for a set in an object store."""
        return set_files.local_folder(self.store)

    @cached_property
    def remote(self) -> CachedTars | None:
        """The split's tars in an object store, as far as they are in the cache; None for a local set."""
        if self.files is None or self.table is None:  # the table is fetched now, not by the thread of the requests
            return None
        return remote_tars(self.files, self.shards, self.starts, self.rows, total=self.manifest.bytes)

    @cached_property
    def table(self) -> SampleTable:
        """The records of all samples, of dtype :data:`shards.format.layout.SAMPLE_DTYPE`."""
        return set_files.open_sample_table(self.store, self.files, self.manifest, self.entry)

    @cached_property
    def shards(self) -> ShardTable:
        """The split's shards in order: sizes, checksums, numbers of samples; read and checked when first needed."""
        return set_files.open_shard_table(self.store, self.files, self.name, self.manifest)

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """The index of each shard's first sample, then the number of samples, shape (shards + 1,)."""
        return np.concatenate([[0], np.cumsum(self.shards.samples)])

    def rows(self, indices: Any) -> Rows:
        """Return the records of some samples (integers, shape (n,)); ``FormatError`` for a damaged one."""
        with set_files.cached_damage(self.files, self.entry.table):
            rows = self.table[np.asarray(indices)]
            largest = None if self.manifest.size else self.manifest.largest
            bad = np.flatnonzero(is_unsound(rows, shards=self.entry.shards, largest=largest))
            if len(bad):
                index = int(np.asarray(indices)[bad[0]])
                table = self.store.describe(self.entry.table.file)
                raise FormatError(
                    f"{table} is damaged: the record of sample {index} (byte {table_offset(index)}) does not match its "
                    "checksum, or names a shard, size or place the set lacks; run petseg-shard verify, then rebuild it"
                )
        return np.asarray(rows)

    def shard_path(self, shard: int) -> Path:
        """Return the path of the split's tar with this number; ``UsageError`` for a set in an object store."""
        return self.folder / shard_name(self.name, shard)

    def describe_shard(self, shard: int) -> str:
        """Return the path or address of a tar, for messages."""
        return self.store.describe(shard_name(self.name, shard))

    def open_tar(self, shard: int) -> ByteRanges:
        """Return a tar of a local set, opened; the names in its first and last header are compared with the table.

        Raises ``FormatError`` if the file was removed, has changed its size, is another shard's, or cannot be read.
        """
        tar = self._tars.get(shard)
        if tar is not None:
            return tar
        set_files.check_size(self.folder, self.shards[shard])
        try:
            tar = ByteRanges(self.shard_path(shard))
            self._check_identity(shard, tar)
        except OSError as error:
            check_shortage(error)
            raise FormatError(f"{self.shard_path(shard)} cannot be read: {error.strerror}") from None
        self._tars.keep(shard, tar)
        return tar

    def close(self) -> None:
        """Close the open tars; a read opens them again."""
        self._tars.drop(self._tars.numbers())

    def read(self, index: int, role: str) -> bytes:
        """Return the bytes of one member (``image``, ``mask`` or ``meta``) of a sample.

        Raises ``SampleError`` if they are missing, or do not match their checksum.
        """
        row = self._row(index)
        start, length = member_span(row, role)
        tar = self._tar_of(index, int(row["shard"]))
        try:
            data = tar[start : start + length]
        except OSError as error:
            raise SampleError(f"{self.place(index, role)}: cannot be read: {error.strerror}") from None
        if len(data) != length:
            raise SampleError(f"{self.place(index, role)}: the tar ends before the member does")
        if zlib_ng.crc32(data) != int(row[f"{role}_crc32"]):
            raise SampleError(f"{self.place(index, role)}: the bytes do not match their checksum; build the set again")
        return data

    def key(self, index: int) -> str:
        """Return a sample's key, read from the tar header of its image; raise ``SampleError`` if that is damaged."""
        row = self._row(index)
        shard = int(row["shard"])
        return sample_key(self._tar_of(index, shard), row, path=self.describe_shard(shard), index=index)

    def meta(self, index: int) -> Mapping[str, Any]:
        """Return ``KEY.json`` of a sample: key, name, split, width, height, and its source's attributes."""
        data = self.read(index, "meta")
        with contextlib.suppress(ValueError, RecursionError):
            document = json.loads(data)
            if isinstance(document, dict):
                return document
        raise SampleError(f"{self.place(index, 'meta')}: not a JSON object")

    def attributes(self, index: int) -> dict[str, str]:
        """Return what the source knew of a sample, such as its breed: other entries of ``KEY.json``, as one line."""
        entries = self.meta(index).items()
        return {printable(name): printable(str(value)) for name, value in entries if name not in META_KEYS}

    def find(self, name: str) -> int | None:
        """Return the index of the sample with this key or original name, or None; scans the table, not the tars."""
        for key in candidate_keys(name):
            for index in np.flatnonzero(self.table.column("key_hash") == np.uint64(key_hash(key))).tolist():
                if self.key(index) == key and (key == name or self.meta(index).get("name") == shown(name)):
                    return int(index)
        return None

    def place(self, index: int, role: str) -> str:
        """Return the place of a member, for messages: shard, key, member and byte offset."""
        row = self.table[index]
        path = self.describe_shard(int(row["shard"]))
        try:
            key = self.key(index)
        except (SampleError, FormatError):
            key = f"sample {index}"
        extension = extensions_of(row).get(role, role)
        return f"{path}: {key}.{extension} (sample {index} of {self.name}, byte {int(row[f'{role}_offset'])})"

    def _check_identity(self, shard: int, tar: ByteRanges) -> None:
        first, end = int(self.starts[shard]), int(self.starts[shard + 1])
        for index in {first, end - 1} if end > first else ():
            row = self.rows([index])[0]
            offset, name, key = image_header(tar, row)
            if int(row["shard"]) != shard or key is None:
                raise FormatError(
                    f"{self.shard_path(shard)} does not match {self.entry.table.file}: sample {index} should start at "
                    f"byte {offset}, not {name[:40]!r}; damaged, or exchanged with another: run petseg-shard verify"
                )

    def _tar_of(self, index: int, shard: int) -> ByteRanges:
        """Return a tar that has this sample, opened for reading."""
        return self.open_tar(shard) if self.remote is None else self.remote.hold_one(shard, index)

    def _row(self, index: int) -> Any:
        if not 0 <= (index := set_files.sample_number(index)) < len(self):
            raise UsageError(f"sample {index} is outside 0..{len(self) - 1} of split {self.name!r}")
        return self.rows([index])[0]


@dataclass(frozen=True)
class ShardSet(set_files.MadeByOpen):
    """A shard set: where its files are, and its manifest. Made by :meth:`open`."""

    store: Store
    manifest: Manifest = field(repr=False)  # pages long
    files: RemoteFiles | None = field(default=None, repr=False)  # of a set in an object store, else None

    @classmethod
    @suggests_names
    def open(
        cls,
        place: str | Path,
        *,
        fetch: Fetch = "auto",
        cache: str | Path | None = None,
        cache_bytes: int | str | None = None,
    ) -> Self:
        """Open a set: check the manifest, and that every file that it describes exists with the right size.

        Args:
            place: a folder, or the address of one: ``s3://``, ``gs://``, ``az://`` or ``https://`` (docs/stores.md).
            fetch: from a store: samples by ``range``, their whole ``shard``, or ``auto``: as much is needed soon.
            cache: the folder to keep in what was fetched; None: ``petseg`` in the user's cache folder.
            cache_bytes: how large that may become: a number, or text such as 200GB; None: half of what is free.

        Raises ``FormatError`` for no set, another version, damage, or a file that is missing or has a wrong size (tars,
        and the tables of a set in an object store, are checked when they are opened), and ``StoreError`` where a store
        cannot be reached.
        """
        store = open_store(place)
        if isinstance(store, FolderStore):
            check_unused(store, fetch=fetch, cache=cache, cache_bytes=cache_bytes)
            manifest = load_manifest(store.folder)
            for entry in manifest.files():
                set_files.check_size(store.folder, entry)
            return cls(store=store, manifest=manifest)
        manifest, files = open_remote_set(store, fetch=fetch, cache=cache, cache_bytes=cache_bytes)
        return cls(store=store, manifest=manifest, files=files)

    @property
    def address(self) -> str:
        """The set's folder or address, for messages."""
        return self.store.address

    @property
    def path(self) -> Path:
        """The set's folder; ``UsageError`` for a set in an object store."""
        return set_files.local_folder(self.store)

    def local_file(self, entry: FileEntry) -> Path:
        """Return the path of one of the manifest's files, fetched where the set is in an object store."""
        return set_files.local_file(self.store, self.files, entry)

    @suggests_names
    def split(self, name: str) -> SplitReader:
        """Return the reader of one split; raise ``UsageError`` if the set has no such split."""
        if name not in [*self.manifest.splits]:  # anything may be asked for, also a list
            existing = ", ".join(split for split in SPLITS if split in self.manifest.splits)
            raise UsageError(f"{self.address} has no split {name!r}; it has: {existing}")
        return SplitReader(store=self.store, name=name, manifest=self.manifest, files=self.files)

    def webdataset(self, split: str, *, shuffle: int = 0, seed: int = 0) -> Any:
        """Return one epoch of a split as a pipeline of the ``webdataset`` library, ready for a ``DataLoader``.

        It yields (image, mask, description): uint8 (H, W, 3), RGB, at the stored size, decoded strictly; uint8 (H, W)
        of class indices, 255 where ignored; the dictionary of ``KEY.json``. Ranks and workers get whole tars.
        No checksum is verified; :class:`pipeline.Loader` does that.

        Args:
            split: its name.
            shuffle: shuffle the tars, and samples in a buffer of so many; 0: in the order of the set.
            seed: of the order, another one in each pass over the pipeline (so make workers persistent).

        Raises ``UsageError`` for no such split, and for a set in an object store.
        """
        from shards.format.readers.webdataset_pipeline import webdataset_pipeline

        reader = self.split(split)
        tars = [reader.shard_path(number) for number in range(reader.entry.shards)]
        return webdataset_pipeline(tars, shuffle=shuffle, seed=seed)
