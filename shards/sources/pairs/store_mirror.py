"""A dataset in an object store: its names are listed once, its images are fetched one by one when they are packed.

So that every layout is recognised as it is on a disk, the names are laid out in a temporary folder: lists and tables
with their content, images and masks as empty (sparse) files of the right size, those that count by them with
their first bytes. No image is read from there.
"""

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec

from shards.audit.file_kinds.signatures import START
from shards.audit.findings import MAX_FILE_BYTES
from shards.errors import PetsegError, SourceError, UsageError, abridged
from shards.format.keys import shown
from shards.sources.layout_protocol import FileStamp, Pair, Source
from shards.sources.pairs.listing import LOOKING_INTO
from shards.store.open_store import open_store
from shards.store.owner_files import scratch_folder
from shards.store.store_protocol import ObjectMissingError, ObjectStatus, Store

LIST_ENDINGS: Final = (".txt", ".csv", ".tsv", ".json")
MAX_LIST_BYTES: Final = 1 << 28  # of a list or table; a larger file of such a name is none
CONCURRENT: Final = 16  # requests at a time
_LARGEST: Final = 2 * MAX_FILE_BYTES  # bytes of an empty file, more than any image's; a list may say any number
_DUMMIES: Final = "gtFine/test/"  # of Cityscapes, whose first masks are looked into
_MOST_DUMMIES: Final = 24


def read_object(address: str, stamp: FileStamp) -> bytes:
    """Return a file of a store; raise ``SourceError`` if it vanished or has changed since it was listed."""
    store, name = _bucket(address)
    try:
        status = store.status(name)
        data = store.read(name) if stamp_of(status) == stamp else None
    except ObjectMissingError:
        raise SourceError(f"{shown(address)} vanished; fix this and run the same command again") from None
    if data is None or len(data) != stamp.bytes:
        raise SourceError(f"{shown(address)} changed while the set was being built; run the same command again")
    return data


def stamp_of(status: ObjectStatus) -> FileStamp:
    """Return the stamp of a file in a store; in the place of its time, 63 bits of a hash of its ETag."""
    changed = int.from_bytes(hashlib.sha256(status.stamp.encode()).digest()[:8]) >> 1
    return FileStamp(bytes=status.size, changed=changed)


def scan_store(address: str, scan_folder: Callable[[Path], Source]) -> Source:
    """Find the pairs of a dataset in a store, or of a .csv file in one; paths of the pairs are addresses.

    Args:
        address: ``s3://bucket/folder`` or ``s3://bucket/folder/pairs.csv``, likewise ``gs://`` and ``az://``.
        scan_folder: finds the pairs below a folder, or of a .csv file.

    Raises what ``scan_folder`` raises, with addresses in the message; ``SourceError`` if there is nothing;
    ``StoreError`` if the store cannot be read.
    """
    address = address.rstrip("/")
    folder, table = address.rsplit("/", 1) if address.lower().endswith(".csv") else (address, "")
    with scratch_folder("source") as scratch:
        mirror = _Mirror(store=open_store(folder), root=Path(os.path.realpath(scratch)), files={})
        with mirror.addresses_in_errors():
            mirror.lay_out()
        if table and table not in mirror.files:
            raise SourceError(f"there is no file {shown(address)}")
        with mirror.addresses_in_errors():
            source = mirror.scan(scan_folder, table)
        return replace(
            source,
            pairs=tuple(mirror.stored(pair) for pair in source.pairs),
            reason=mirror.with_addresses(source.reason),
            address=address,
        )


@dataclass
class _Mirror:
    """The names of a store below a folder of the disk."""

    store: Store
    root: Path
    files: dict[str, ObjectStatus]

    def lay_out(self) -> None:
        if self.store.read_only:
            raise UsageError(
                f"{self.store.address} cannot be listed; give an s3://, gs:// or az:// address, or a folder"
            )
        listed = {name: status for name, status in self.store.list() if _is_plain(name)}
        # Consoles make an object for each folder.
        folders = {str(folder) for name in listed for folder in PurePosixPath(name).parents}
        self.files = {name: status for name, status in listed.items() if name not in folders}
        if not self.files:
            raise SourceError(f"there is nothing at {shown(self.store.address)}; check the address")
        for name, status in self.files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as handle:
                handle.truncate(min(status.size, _LARGEST))
        with ThreadPoolExecutor(CONCURRENT, "lists") as readers:
            list(readers.map(self._fetch, self._needed()))

    def _needed(self) -> Iterator[str]:
        """Yield the names of files whose content decides which pairs there are."""
        for name, status in self.files.items():
            if name.lower().endswith(LIST_ENDINGS) and status.size <= MAX_LIST_BYTES:
                yield name
        dummies = (name for name in self.files if f"/{name}".find(f"/{_DUMMIES}") >= 0)
        yield from sorted(dummies, key=lambda name: name.rsplit("/", 1)[-1])[:_MOST_DUMMIES]

    def _fetch(self, name: str) -> None:
        (self.root / name).write_bytes(self.store.read(name, match=self.files[name]))

    def scan(self, scan_folder: Callable[[Path], Source], table: str) -> Source:
        """Return what is found; anew, as long as first bytes were looked at that had not been fetched."""
        fetched: set[str] = set()
        while True:
            looked_at: set[str] = set()
            token = LOOKING_INTO.set(looked_at.add)
            try:
                source: Source | PetsegError = scan_folder(self.root / table)
            except (SourceError, UsageError) as error:
                source = error
            finally:
                LOOKING_INTO.reset(token)
            names = {Path(path).relative_to(self.root).as_posix() for path in looked_at}
            if not (missing := names - fetched):
                if isinstance(source, PetsegError):
                    raise source
                return source
            with ThreadPoolExecutor(CONCURRENT, "starts") as readers:
                list(readers.map(self._fetch_start, missing))
            fetched |= missing

    def _fetch_start(self, name: str) -> None:
        status = self.files[name]
        with (self.root / name).open("r+b") as file:
            file.write(self.store.read_range(name, 0, min(START, status.size), match=status))

    def stored(self, pair: Pair) -> Pair:
        """Return a pair of the temporary folder as one of the store."""
        image, mask = (Path(path).relative_to(self.root).as_posix() for path in (pair.image, pair.mask))
        return msgspec.structs.replace(
            pair,
            image=f"{self.store.address}/{image}",
            mask=f"{self.store.address}/{mask}",
            image_stamp=stamp_of(self.files[image]),
            mask_stamp=stamp_of(self.files[mask]),
        )

    def with_addresses(self, text: str) -> str:
        """Return a text for people, with addresses instead of paths of the temporary folder."""
        return text.replace(str(self.root), self.store.address)

    @contextlib.contextmanager
    def addresses_in_errors(self) -> Iterator[None]:
        try:
            yield
        except (SourceError, UsageError) as error:
            raise type(error)(self.with_addresses(str(error))) from None
        except OSError as error:  # names that no disk can hold: too long, or at once, such as a and a/b
            raise PetsegError(f"{self.store.address}: {abridged(self.with_addresses(str(error)), most=400)}") from None


@functools.lru_cache(maxsize=8)
def _opened(bucket: str) -> Store:
    return open_store(bucket)


def _bucket(address: str) -> tuple[Store, str]:
    scheme, _, rest = address.partition("://")
    bucket, _, name = rest.partition("/")
    return _opened(f"{scheme}://{bucket}"), name


def _is_plain(name: str) -> bool:
    """Whether a name can be a file below a folder; others, such as the empty objects of consoles, are left out."""
    parts = name.split("/")
    return all(part not in ("", ".", "..") and len(os.fsencode(part)) <= 255 for part in parts) and "\0" not in name
