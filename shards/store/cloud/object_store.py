"""A folder in an object store (S3, Google Cloud Storage, Azure Blob) or on a web server, by obstore."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from shards.errors import PetsegError, printable
from shards.store.addresses import WEB_SCHEMES, StoreAddress
from shards.store.byte_ranges import MOST_READ
from shards.store.cloud.cloud_clients import make_client
from shards.store.cloud.patience import DEFAULT_PATIENCE, Patience
from shards.store.cloud.replies import Passing, Write, conditions, expect_plain, status_of
from shards.store.cloud.request_errors import NO_RANGES, SLOW, given_up, passing_reason
from shards.store.cloud.request_loop import run
from shards.store.store_protocol import (
    ObjectChangedError,
    ObjectEndsError,
    ObjectExistsError,
    ObjectMissingError,
    ObjectStatus,
    StoreError,
)

_T = TypeVar("_T")
_PUT_PART = 8 << 20  # bytes of each part of a large file
MOST_LISTED: Final = 1 << 25  # files of a folder
_CHUNK: Final = 1 << 20  # bytes of a reply, each of which must arrive in time


@dataclass(frozen=True)
class ObjectStore:
    """See :class:`shards.store.store_protocol.Store`; the methods ``*_async`` are for :mod:`request_loop`'s thread."""

    place: StoreAddress
    patience: Patience = DEFAULT_PATIENCE
    failures: Counter[str] = field(default_factory=Counter, compare=False, repr=False)  # repeated requests, by reason
    _clients: list[Any] = field(default_factory=list, compare=False, repr=False)  # one, when it has been used

    def __getstate__(self) -> dict[str, Any]:
        return {"place": self.place, "patience": self.patience}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, failures=Counter(), _clients=[])

    @property
    def address(self) -> str:
        """The folder's address."""
        return str(self.place)

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.place.name

    @property
    def location(self) -> str:
        """The folder's address."""
        return self.address

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written, listed or deleted: over https."""
        return self.place.scheme in WEB_SCHEMES

    def describe(self, name: str) -> str:
        """Return the address of a file, for messages."""
        return f"{self.address}/{name}"

    def local_path(self, name: str) -> Path | None:
        """Return None: no file is a local one."""
        return None

    def status(self, name: str) -> ObjectStatus:
        """Return size and ETag of a file."""
        return run(self.status_async(name))

    def read(self, name: str, *, match: ObjectStatus | None = None) -> bytes:
        """Return the content of a file."""
        return run(self.read_async(name, match=match))

    def read_range(self, name: str, start: int, length: int, *, match: ObjectStatus | None = None) -> bytes:
        """Return exactly ``length`` bytes from ``start`` on."""
        return bytes(run(self.read_range_async(name, start, length, match=match))[1]) if length else b""

    async def status_async(self, name: str) -> ObjectStatus:
        """See :meth:`status`."""

        async def request(client: Any) -> ObjectStatus:
            async with self._in_time(0):
                return status_of(await client.head_async(name))

        try:
            return await self._try(name, request)
        except ObjectMissingError:  # the reply to such a request has no text: is there a bucket?
            await self.read_range_async(name, 0, 1)
            raise

    async def read_async(self, name: str, *, match: ObjectStatus | None = None) -> bytes:
        """See :meth:`read`."""

        async def request(client: Any) -> bytes:
            async with self._in_time(0):
                reply = await client.get_async(name, options=conditions(match))
            size = self._check(name, reply, match).size
            if size > MOST_READ:  # before memory is asked for
                raise StoreError(f"{self.describe(name)} has {size} bytes, more than such a file of a set has")
            return bytes(await self._body(reply, size))

        return await self._try(name, request, match=match)

    async def read_range_async(
        self,
        name: str,
        start: int,
        length: int,
        *,
        match: ObjectStatus | None = None,
        write: Write | None = None,
        ranged: bool = True,
    ) -> tuple[ObjectStatus, memoryview]:
        """Return a file's version, and the bytes of :meth:`read_range`, at least one; the memory is the reply's own.

        With ``write``, they go there as they arrive, anew where a request is repeated. Not ``ranged``: all of a file.
        """
        options = conditions(match) | ({"range": (start, start + length)} if ranged else {})

        async def request(client: Any) -> tuple[ObjectStatus, memoryview]:
            async with self._in_time(0):
                reply = await client.get_async(name, options=options)
            found = self._check(name, reply, match)
            if tuple(reply.range) != (start, start + length):
                if found.size < start + length:
                    raise ObjectEndsError(f"{self.describe(name)} ends before byte {start + length}")
                raise Passing("a wrong range")
            if write is None:
                return found, await self._body(reply, length)
            at = start
            async for chunk in self._chunks(reply, length):
                await write(at, chunk)
                at += len(chunk)
            return found, memoryview(b"")

        return await self._try(name, request, match=match)

    def put(
        self, name: str, data: bytes | Path, *, if_absent: bool = False, if_match: ObjectStatus | None = None
    ) -> ObjectStatus:
        """Write a file atomically."""
        self._check_writable(name)
        mode: Any = "create" if if_absent else "overwrite"
        if if_match is not None:  # Google compares versions, others ETags
            mode = {"e_tag": if_match.stamp} | ({"version": if_match.version} if if_match.version else {})
        if mode != "overwrite" and isinstance(data, Path):
            data = data.read_bytes()
        size = data.stat().st_size if isinstance(data, Path) else len(data)
        before = self.failures.total()

        async def request(client: Any) -> ObjectStatus:
            async with self._in_time(size):
                written = await client.put_async(name, data, mode=mode, chunk_size=_PUT_PART)
            return status_of({"size": size, **written})

        try:
            return run(self._try(name, request, match=if_match))
        except (ObjectExistsError, ObjectChangedError):  # the reply to an attempt that succeeded may have been lost
            if self.failures.total() > before and isinstance(data, bytes):
                found = self.status(name)
                if found.size == size and self.read(name, match=found) == data:
                    return found
            raise

    def list(self, folder: str = "") -> Iterator[tuple[str, ObjectStatus]]:
        """Yield name and status of every file."""
        self._check_writable(folder)

        async def request(client: Any) -> list[Any]:
            found: list[Any] = []
            firsts: set[str] = set()  # of each page: one that comes twice is of a listing that begins anew
            pages = client.list(folder or None)
            while True:
                async with self._in_time(_CHUNK):
                    page = await anext(pages, None)
                if page is None:
                    return found
                found += page
                first = page[0]["path"] if page else ""
                if first in firsts or len(found) > MOST_LISTED:
                    raise StoreError(
                        f"{self.describe(folder)}: the server's list of files has no end; check the endpoint"
                    )
                firsts |= {first} - {""}

        for found in run(self._try(folder, request)):
            yield found["path"], status_of(found)

    def copy(self, name: str, new_name: str) -> None:
        """Have the server copy a file."""
        self._check_writable(new_name)
        run(self._try(name, lambda client: client.copy_async(name, new_name)))  # the server may take its time

    def delete(self, name: str) -> None:
        """Remove a file; nothing happens if there is none."""
        self._check_writable(name)

        async def request(client: Any) -> None:
            async with self._in_time(0):
                await client.delete_async(name)

        with suppress(ObjectMissingError):
            run(self._try(name, request))

    async def _try(
        self, name: str, request: Callable[[Any], Awaitable[_T]], *, match: ObjectStatus | None = None
    ) -> _T:
        """Make a request, again and again where it fails in a way that may pass."""
        hopeless = 0
        for attempt in range(1, self.patience.attempts + 1):
            try:
                return await request(self._client())
            except PetsegError:
                raise
            except Passing as error:
                reason = str(error)
            except Exception as error:  # noqa: BLE001 - obstore's errors; what they mean is decided there
                if type(error).__name__ in ("PreconditionError", "NotModifiedError"):
                    raise await self._changed(name, match) from None
                reason = passing_reason(error, self.describe(name))
            hopeless += reason in (SLOW, NO_RANGES)
            if attempt == self.patience.attempts or hopeless == self.patience.hopeless_attempts:
                raise given_up(self.describe(name), attempt, reason)
            self.failures[reason] += 1
            await asyncio.sleep(self.patience.wait(attempt - 1))
        raise AssertionError

    def _client(self) -> Any:
        if not self._clients:
            seconds = {"connect_seconds": self.patience.connect_seconds, "read_seconds": self.patience.read_seconds}
            self._clients.append(make_client(self.place, **seconds))
        return self._clients[0]

    def _check(self, name: str, reply: Any, expected: ObjectStatus | None) -> ObjectStatus:
        """Return the version of a reply, if it is the expected one."""
        if self.read_only:  # elsewhere it is what was said when the file was uploaded
            expect_plain(self.describe(name), reply)
        found = status_of(reply.meta)
        if expected is None or found == expected:
            return found
        if found.stamp == expected.stamp:
            raise Passing("a wrong size")
        self.failures["another ETag"] += 1  # counted even where it was fetched in advance, and nobody needs it
        raise self._difference(name, found, expected)

    def _difference(self, name: str, found: ObjectStatus, expected: ObjectStatus) -> ObjectChangedError:
        return ObjectChangedError(
            f"{self.describe(name)} has been changed: expected {expected.size} bytes with ETag {expected.stamp}, found "
            f"{found.size} bytes with ETag {printable(found.stamp)}"
        )

    async def _changed(self, name: str, expected: ObjectStatus | None) -> ObjectChangedError:
        """Return the error for a version that the server refused to compare as equal."""
        try:
            found = status_of(await self._client().head_async(name))
        except Exception:  # noqa: BLE001 - what is there now is only for the message
            found = ObjectStatus(0, "none")
        return self._difference(name, found, expected or ObjectStatus(0, "none"))

    @asynccontextmanager
    async def _in_time(self, size: int) -> AsyncIterator[None]:
        """Within the block, so many bytes are sent or received; ``Passing`` if that takes too long."""
        try:
            async with asyncio.timeout(self.patience.limit(size)):
                yield
        except TimeoutError:
            raise Passing(SLOW) from None

    async def _body(self, reply: Any, size: int) -> memoryview:
        """Return the body of a reply; ``Passing`` unless it has this size."""
        chunks = [chunk async for chunk in self._chunks(reply, size)]
        return chunks[0] if len(chunks) == 1 else memoryview(b"".join(chunks))

    async def _chunks(self, reply: Any, size: int) -> AsyncIterator[memoryview]:
        """Yield the parts of a body; ``Passing`` unless it has this size. No more is read, whatever is sent."""
        received, stream = 0, aiter(reply.stream(min_chunk_size=_CHUNK))
        while True:
            async with self._in_time(min(size - received, _CHUNK)):
                chunk = await anext(stream, None)
            received += len(chunk) if chunk is not None else 0
            if received > size or (chunk is None and received != size):
                raise Passing("a body of another length")
            if chunk is None:
                return
            yield memoryview(chunk)

    def _check_writable(self, name: str) -> None:
        if self.read_only:
            raise StoreError(f"{self.describe(name)}: web addresses are read only; use s3://, gs:// or az://")
