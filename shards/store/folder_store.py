"""A local folder as a store."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

from shards.store.atomic import PARTIAL_PREFIX, atomic_file
from shards.store.byte_ranges import ByteRanges, check_shortage, open_regular
from shards.store.store_protocol import (
    ObjectChangedError,
    ObjectExistsError,
    ObjectMissingError,
    ObjectStatus,
    StoreError,
)


@dataclass(frozen=True)
class FolderStore:
    """The files in a local folder, which :meth:`put` creates if it does not exist."""

    folder: Path
    read_only = False
    failures: ClassVar[Mapping[str, int]] = MappingProxyType({})

    @property
    def address(self) -> str:
        """The folder's path."""
        return str(self.folder)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @property
    def location(self) -> str:
        """The folder's absolute path."""
        return str(self.folder.resolve())

    def describe(self, name: str) -> str:
        """Return the path of a file, for messages."""
        return str(self.folder / name)

    def local_path(self, name: str) -> Path | None:
        """Return a file's path."""
        return self.folder / name

    def status(self, name: str) -> ObjectStatus:
        """Return size and stamp of a file."""
        with self._errors(name):
            return _status((self.folder / name).stat())

    def read(self, name: str, *, match: ObjectStatus | None = None) -> bytes:
        """Return the content of a regular file."""
        with self._errors(name), ByteRanges(self.folder / name) as file:
            self._check(name, _status(file.status), match)
            return file.whole()

    def read_range(self, name: str, start: int, length: int, *, match: ObjectStatus | None = None) -> bytes:
        """Return exactly ``length`` bytes from ``start`` on."""
        with self._errors(name), os.fdopen(open_regular(self.folder / name), "rb") as file:
            self._check(name, _status(os.fstat(file.fileno())), match)
            file.seek(start)
            data = file.read(length)
        if len(data) != length:
            raise StoreError(f"{self.describe(name)} ends before byte {start + length}")
        return data

    def put(
        self, name: str, data: bytes | Path, *, if_absent: bool = False, if_match: ObjectStatus | None = None
    ) -> ObjectStatus:
        """Write a file atomically, flushed to the disk."""
        path = self.folder / name
        with self._errors(name):
            path.parent.mkdir(parents=True, exist_ok=True)
        if if_match is not None:
            self._check(name, self.status(name), if_match)
        with self._errors(name):
            try:
                if if_absent and path.exists():  # found out before anything is written
                    raise FileExistsError
                with atomic_file(path, replace=not if_absent) as file:
                    _copy(data, file)
            except FileExistsError:
                raise ObjectExistsError(f"{self.describe(name)} exists already") from None
            return _status(path.stat())

    def list(self, folder: str = "") -> Iterator[tuple[str, ObjectStatus]]:
        """Yield name and status of every regular file, except those that are being written."""
        with self._errors(folder):
            for parent, _, names in os.walk(self.folder / folder):
                for name in names:
                    path = Path(parent, name)
                    if not name.startswith(PARTIAL_PREFIX) and path.is_file():
                        yield path.relative_to(self.folder).as_posix(), _status(path.stat())

    def copy(self, name: str, new_name: str) -> None:
        """Copy a file."""
        self.status(name)  # so that a missing one is named, not the new one
        self.put(new_name, self.folder / name)

    def delete(self, name: str) -> None:
        """Remove a file; nothing happens if there is none."""
        with self._errors(name):
            (self.folder / name).unlink(missing_ok=True)

    def _check(self, name: str, found: ObjectStatus, expected: ObjectStatus | None) -> None:
        if expected is not None and found != expected:
            raise ObjectChangedError(
                f"{self.describe(name)} has been changed: expected {expected.size} bytes ({expected.stamp}), found "
                f"{found.size} ({found.stamp})"
            )

    @contextlib.contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            raise ObjectMissingError(f"{self.describe(name)} does not exist") from None
        except OSError as error:
            check_shortage(error)
            raise StoreError(f"{self.describe(name)}: {error.strerror}") from None


def _copy(data: bytes | Path, file: "object") -> None:
    if isinstance(data, Path):
        with data.open("rb") as source:
            shutil.copyfileobj(source, file, 1 << 20)  # type: ignore[arg-type]
    else:
        file.write(data)  # type: ignore[attr-defined]


def _status(stat: os.stat_result) -> ObjectStatus:
    return ObjectStatus(stat.st_size, f"{stat.st_dev}-{stat.st_ino}-{stat.st_size}-{stat.st_mtime_ns}")
