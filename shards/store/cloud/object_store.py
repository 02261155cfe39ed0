"""A folder in an object store (S3, Google Cloud Storage, Azure Blob) or on a web server, by obstore."""

import asyncio
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from shards.errors import PetsegError, printable
from shards.store.addresses import WEB_SCHEMES, StoreAddress, without_secrets
from shards.store.cloud.cloud_clients import make_client
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
_STATUS = re.compile(r"status code: (\d{3})")
_XML_MESSAGE = re.compile(r"<Message>([^<]{1,200})</Message>")
_PASSING: Final = {"408", "429"}  # and those from 500 on: worth another try
_PUT_PART = 8 << 20  # bytes of each part of a large file


@dataclass(frozen=True)
class Patience:
    """How often, and after which waits, a failed request is repeated.

    The waits double from ``first_wait`` to ``longest_wait`` seconds, each multiplied by a random number from 0.5 to 1
    (so that many clients do not come back at once); by default 20 seconds in all, besides the requests' own time.
    """

    attempts: int = 8
    first_wait: float = 0.1
    longest_wait: float = 15.0
    connect_seconds: float = 5.0
    read_seconds: float = 20.0  # without a byte

    def wait(self, attempt: int) -> float:
        """Return the seconds to wait after a failed attempt, counted from 0."""
        return float(min(self.longest_wait, self.first_wait * 2**attempt)) * random.uniform(0.5, 1)


class Passing(Exception):  # noqa: N818 - never shown as such
    """A request failed in a way that may pass; the text says how."""


@dataclass(frozen=True)
class ObjectStore:
    """See :class:`shards.store.store_protocol.Store`; the methods ``*_async`` are for :mod:`request_loop`'s thread."""

    place: StoreAddress
    patience: Patience = Patience()
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

    @property
    def retries(self) -> int:
        """How many requests failed and were repeated so far, in this process; :attr:`failures` says why."""
        return self.failures.total()

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
        return _status(await self._try(name, lambda client: client.head_async(name)))

    async def read_async(self, name: str, *, match: ObjectStatus | None = None) -> bytes:
        """See :meth:`read`."""

        async def request(client: Any) -> bytes:
            reply = await client.get_async(name, options=_conditions(match))
            self._check(name, _status(reply.meta), match)
            return await self._whole(name, reply, reply.meta["size"])

        return await self._try(name, request, match=match)

    async def read_range_async(
        self, name: str, start: int, length: int, *, match: ObjectStatus | None = None
    ) -> tuple[ObjectStatus, memoryview]:
        """Return a file's version, and the bytes of :meth:`read_range`, at least one; the memory is the reply's own."""

        async def request(client: Any) -> tuple[ObjectStatus, memoryview]:
            reply = await client.get_async(name, options={"range": (start, start + length), **_conditions(match)})
            found = _status(reply.meta)
            self._check(name, found, match)
            if tuple(reply.range) != (start, start + length):
                if found.size < start + length:
                    raise ObjectEndsError(f"{self.describe(name)} ends before byte {start + length}")
                raise Passing("a wrong range")
            body = await reply.bytes_async()
            if len(body) != length:
                raise Passing("a body of another length")
            return found, memoryview(body)

        return await self._try(name, request, match=match)

    def put(
        self, name: str, data: bytes | Path, *, if_absent: bool = False, if_match: ObjectStatus | None = None
    ) -> ObjectStatus:
        """Write a file atomically."""
        self._check_writable(name)
        mode: Any = {"e_tag": if_match.stamp} if if_match is not None else "create" if if_absent else "overwrite"
        if mode != "overwrite" and isinstance(data, Path):
            data = data.read_bytes()
        size = data.stat().st_size if isinstance(data, Path) else len(data)
        before = self.retries

        async def request(client: Any) -> ObjectStatus:
            written = await client.put_async(name, data, mode=mode, chunk_size=_PUT_PART)
            return _status({"size": size, **written})

        try:
            return run(self._try(name, request, match=if_match))
        except (ObjectExistsError, ObjectChangedError):  # the reply to an attempt that succeeded may have been lost
            if self.retries > before and isinstance(data, bytes):
                found = self.status(name)
                if found.size == size and self.read(name, match=found) == data:
                    return found
            raise

    def list(self, folder: str = "") -> Iterator[tuple[str, ObjectStatus]]:
        """Yield name and status of every file."""
        self._check_writable(folder)

        async def request(client: Any) -> list[Any]:
            return list(await client.list(folder or None).collect_async())

        for found in run(self._try(folder, request)):
            yield found["path"], _status(found)

    def copy(self, name: str, new_name: str) -> None:
        """Have the server copy a file."""
        self._check_writable(new_name)
        run(self._try(name, lambda client: client.copy_async(name, new_name)))

    def delete(self, name: str) -> None:
        """Remove a file; nothing happens if there is none."""
        self._check_writable(name)
        try:
            run(self._try(name, lambda client: client.delete_async(name)))
        except ObjectMissingError:
            return

    async def _try(
        self,
        name: str,
        request: Callable[[Any], Awaitable[_T]],
        *,
        match: ObjectStatus | None = None,
    ) -> _T:
        """Make a request, again and again where it fails in a way that may pass."""
        for attempt in range(self.patience.attempts):
            try:
                return await request(self._client())
            except Passing as error:
                reason = str(error)
            except PetsegError:
                raise
            except Exception as error:  # noqa: BLE001 - obstore's errors; what they mean is decided there
                if type(error).__name__ in ("PreconditionError", "NotModifiedError"):
                    raise await self._changed(name, match) from None
                reason = self._judge(name, error)
            if attempt + 1 < self.patience.attempts:
                self.failures[reason] += 1
                await asyncio.sleep(self.patience.wait(attempt))
        raise StoreError(
            f"{self.describe(name)} cannot be reached: {self.patience.attempts} attempts failed, the last one with "
            f"{reason}; check the network and the endpoint, and start again: nothing is damaged"
        )

    def _client(self) -> Any:
        if not self._clients:
            seconds = {"connect_seconds": self.patience.connect_seconds, "read_seconds": self.patience.read_seconds}
            self._clients.append(make_client(self.place, **seconds))
        return self._clients[0]

    def _judge(self, name: str, error: Exception) -> str:
        """Return why a request failed if that may pass; else raise what it means."""
        text, place = str(error), printable(self.describe(name))
        match type(error).__name__:
            case "FileNotFoundError" | "NotFoundError":
                missing = "there is no such bucket or container" if "NoSuchBucket" in text else "it does not exist"
                raise ObjectMissingError(f"{place}: {missing}; check the address and the endpoint") from None
            case "AlreadyExistsError":
                raise ObjectExistsError(f"{place} exists already") from None
            case "PermissionDeniedError" | "UnauthenticatedError":
                raise StoreError(f"{place}: permission denied{_said(text)}; check the credentials") from None
        found = _STATUS.search(text)
        code = found[1] if found else ""
        if code == "416":
            raise ObjectEndsError(f"{place} ends before the bytes that were asked for") from None
        if code and code < "500" and code not in _PASSING:
            raise StoreError(f"{place}: the server refused the request: status {code}{_said(text)}") from None
        return f"status {code}" if code else _short(text)

    def _check(self, name: str, found: ObjectStatus, expected: ObjectStatus | None) -> None:
        if expected is None or found == expected:
            return
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
            found = _status(await self._client().head_async(name))
        except Exception:  # noqa: BLE001 - what is there now is only for the message
            found = ObjectStatus(0, "none")
        return self._difference(name, found, expected or ObjectStatus(0, "none"))

    async def _whole(self, name: str, reply: Any, size: int) -> bytes:
        if size > 1 << 30:  # before memory is asked for: obstore aborts the process where there is none
            raise StoreError(f"{self.describe(name)} has {size} bytes, more than such a file of a set has")
        body = await reply.bytes_async()
        if len(body) != size:
            raise Passing("a body of another length")
        return bytes(body)

    def _check_writable(self, name: str) -> None:
        if self.read_only:
            raise StoreError(f"{self.describe(name)}: web addresses are read only; use s3://, gs:// or az://")


def _status(meta: Any) -> ObjectStatus:
    stamp = meta["e_tag"] or f"modified {meta['last_modified'].isoformat()}"
    if meta["e_tag"] and not stamp.endswith('"'):  # Azure's listings leave out the quotes that its replies have
        stamp = f'"{stamp}"'
    return ObjectStatus(meta["size"], stamp)


def _conditions(match: ObjectStatus | None) -> dict[str, Any]:
    """Return the condition of a request; a weak ETag matches none, and is compared with the reply's instead."""
    strong = match is not None and match.stamp.startswith('"')
    return {"if_match": match.stamp} if match is not None and strong else {}


def _said(text: str) -> str:
    found = _XML_MESSAGE.search(text)
    return f" ({printable(without_secrets(found[1]))})" if found else ""


def _short(text: str) -> str:
    """Return the reason that obstore's text gives, without addresses, numbers and times: failures are counted by it."""
    line = without_secrets(text.split("\n", 1)[0])
    return re.sub(r"\d+", "N", printable(line.rsplit(" - ", 1)[-1]).removeprefix("Generic S3 error: "))[:120]
