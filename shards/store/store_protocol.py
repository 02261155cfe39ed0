"""Where the files of a set are: the interface of a local folder and of an object store, and their errors."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from shards.errors import PetsegError


class StoreError(PetsegError):
    """A store cannot be used: no network, no permission, or it does not answer. No file is damaged."""


class ObjectMissingError(StoreError):
    """There is no file of this name."""


class ObjectExistsError(StoreError):
    """There is a file of this name already, where none was expected."""


class ObjectChangedError(StoreError):
    """A file is not the version that was expected: another one has been written meanwhile."""


class ObjectEndsError(StoreError):
    """A file ends before the bytes that were asked for."""


class NoRangesError(StoreError):
    """A server sends whole files only."""


@dataclass(frozen=True)
class ObjectStatus:
    """What a store says of a file: its size in bytes, and a stamp that another content would not have.

    The stamp is the ETag; where a server has none, the time of modification; of a local file device, inode, size and
    time of modification. ``version`` is what a server numbers contents by, if it does: Google's generation.
    """

    size: int
    stamp: str
    version: str = field(default="", compare=False)  # lists of files leave it out


def repeated_text(failures: Mapping[str, int]) -> str:
    """Return a line that says how many requests to a store were repeated and why; an empty text if none were."""
    if not (total := sum(failures.values())):
        return ""
    reasons = ", ".join(f"{count} x {reason}" for reason, count in sorted(failures.items(), key=lambda each: -each[1]))
    return f"{total} failed request{'s' * (total > 1)} to the object store repeated: {reasons}"


class Store(Protocol):
    """Files by name. A name is relative, and may have ``/`` in it: ``manifest.json``, ``parts/000001.json``.

    Thread-safe. Pickles as its address, so that each process has connections of its own; connections are opened by the
    first request, and do not survive a fork (the request in the child raises ``PetsegError``).

    Every operation may raise :class:`StoreError`, after bounded retries of what may pass (503, a reset connection, a
    cut or short body, a time limit), with the file's address and what to do. Failed requests are counted in
    ``failures``.
    """

    @property
    def address(self) -> str:
        """The folder's path or address, for messages and for :func:`shards.store.open_store`; without credentials."""
        ...

    @property
    def name(self) -> str:
        """The last part of the path or address, for titles."""
        ...

    @property
    def location(self) -> str:
        """The address, or the folder's absolute path: the same place from any working directory."""
        ...

    @property
    def read_only(self) -> bool:
        """Whether :meth:`put`, :meth:`list` and :meth:`delete` are refused, as over https."""
        ...

    @property
    def failures(self) -> Mapping[str, int]:
        """How many requests failed and were repeated so far, in this process, by reason."""
        ...

    def describe(self, name: str) -> str:
        """Return the path or address of a file, for messages."""
        ...

    def local_path(self, name: str) -> Path | None:
        """Return a file's path where it is a local one, whether it exists or not; else None."""
        ...

    def status(self, name: str) -> ObjectStatus:
        """Return size and stamp of a file; raise :class:`ObjectMissingError` if there is none."""
        ...

    def read(self, name: str, *, match: ObjectStatus | None = None) -> bytes:
        """Return the content of a file, all of it.

        Raises :class:`ObjectMissingError`; with ``match``, :class:`ObjectChangedError` for any other version;
        :class:`StoreError` for more than :data:`shards.store.byte_ranges.MOST_READ` bytes.
        """
        ...

    def read_range(self, name: str, start: int, length: int, *, match: ObjectStatus | None = None) -> bytes:
        """Return exactly ``length`` bytes from ``start`` on; raises as :meth:`read` does, and beyond the end."""
        ...

    def put(
        self, name: str, data: bytes | Path, *, if_absent: bool = False, if_match: ObjectStatus | None = None
    ) -> ObjectStatus:
        """Write a file atomically, from bytes or a local file: readers see the old content or the new one.

        With ``if_absent``, :class:`ObjectExistsError` is raised if there is a file of this name; of several writers one
        succeeds. With ``if_match``, from :meth:`status` or :meth:`put`, :class:`ObjectChangedError` is raised unless
        the file is still this version (a store decides that atomically; locally, another process may come in between).
        Conditional writes go out in one request, so the content must fit in memory (and S3 takes 5 GB at most).
        """
        ...

    def list(self, folder: str = "") -> Iterator[tuple[str, ObjectStatus]]:
        """Yield name and status of every file below the store's folder, or below a folder of it, in no fixed order."""
        ...

    def copy(self, name: str, new_name: str) -> None:
        """Give a file's content a second name, replacing what has it; in a store by the server, so nothing is fetched.

        Raises :class:`ObjectMissingError` if there is no file ``name``.
        """
        ...

    def delete(self, name: str) -> None:
        """Remove a file; nothing happens if there is none."""
        ...
