"""An object store in this process, which can fail or be interrupted at any change."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from shards.store.open_store import open_store
from shards.store.store_protocol import (
    ObjectChangedError,
    ObjectExistsError,
    ObjectMissingError,
    ObjectStatus,
    Store,
)


@dataclass
class Bucket:
    """Contents by name; before the change after ``left`` others, ``error`` is raised, or ``action`` called, once.

    An action comes before something is written, not before it is removed.
    """

    contents: dict[str, bytes] = field(default_factory=dict, repr=False)
    lock: threading.RLock = field(default_factory=threading.RLock)
    left: int | None = None
    error: BaseException | None = None
    action: Callable[[], object] = lambda: None

    def change(self, *, removes: bool = False) -> None:
        with self.lock:
            if self.left is None or (removes and self.error is None):
                return
            self.left -= 1
            if self.left >= 0:
                return
            self.left = None
        if self.error is not None:
            raise self.error
        self.action()


@dataclass(frozen=True)
class MemoryStore:
    """See :class:`shards.store.store_protocol.Store`."""

    bucket: Bucket = field(default_factory=Bucket, repr=False)
    prefix: str = ""
    read_only = False
    failures = MappingProxyType[str, int]({})

    def at(self, place: str | Path) -> Store:
        """What replaces ``open_store``: addresses are in this bucket, paths are folders."""
        return replace(self, prefix=f"{place}/") if "://" in str(place) else open_store(place)

    @property
    def address(self) -> str:
        return self.prefix.rstrip("/")

    def describe(self, name: str) -> str:
        return self.prefix + name

    def local_path(self, name: str) -> Path | None:
        return None

    def status(self, name: str) -> ObjectStatus:
        data = self.read(name)
        return ObjectStatus(len(data), hashlib.md5(data).hexdigest())

    def read(self, name: str, *, match: ObjectStatus | None = None) -> bytes:
        try:
            data = self.bucket.contents[self.prefix + name]
        except KeyError:
            raise ObjectMissingError(f"{self.describe(name)} does not exist") from None
        if match is not None and match.stamp != hashlib.md5(data).hexdigest():
            raise ObjectChangedError(self.describe(name))
        return data

    def read_range(self, name: str, start: int, length: int, *, match: ObjectStatus | None = None) -> bytes:
        data = self.read(name, match=match)[start : start + length]
        assert len(data) == length
        return data

    def put(
        self, name: str, data: bytes | Path, *, if_absent: bool = False, if_match: ObjectStatus | None = None
    ) -> ObjectStatus:
        content = data.read_bytes() if isinstance(data, Path) else data
        self.bucket.change()
        with self.bucket.lock:
            if if_absent and self.prefix + name in self.bucket.contents:
                raise ObjectExistsError(self.describe(name))
            if if_match is not None and self.status(name) != if_match:
                raise ObjectChangedError(self.describe(name))
            self.bucket.contents[self.prefix + name] = content
        return self.status(name)

    def list(self, folder: str = "") -> Iterator[tuple[str, ObjectStatus]]:
        start = self.prefix + (f"{folder}/" if folder else "")
        for name in [name for name in self.bucket.contents if name.startswith(start)]:
            relative = name.removeprefix(self.prefix)
            yield relative, self.status(relative)

    def copy(self, name: str, new_name: str) -> None:
        self.bucket.change()
        with self.bucket.lock:
            self.bucket.contents[self.prefix + new_name] = self.read(name)

    def delete(self, name: str) -> None:
        self.bucket.change(removes=True)
        with self.bucket.lock:
            self.bucket.contents.pop(self.prefix + name, None)

    def tree(self, address: str) -> dict[str, bytes]:
        """Return what is below an address, by relative name."""
        start = f"{address}/"
        found = {n.removeprefix(start): data for n, data in self.bucket.contents.items() if n.startswith(start)}
        return dict(sorted(found.items()))
