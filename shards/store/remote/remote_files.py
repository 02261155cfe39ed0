"""The files of a set in an object store, fetched whole into the cache and compared with their SHA-256."""

import asyncio
import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args

from zlib_ng import zlib_ng

from shards.errors import CacheTooSmallError, FormatError, PetsegError, option, printable
from shards.store.byte_ranges import MOST_GAP, share_of_files, write_at
from shards.store.cloud.object_store import ObjectStore
from shards.store.cloud.replies import Write
from shards.store.cloud.request_loop import run
from shards.store.remote.cached_file import CachedFile
from shards.store.remote.content_cache import FULL, ContentCache
from shards.store.store_protocol import NoRangesError, ObjectEndsError, ObjectStatus

Fetch = Literal["auto", "range", "shard"]
FETCHES: Final = get_args(Fetch)
PART: Final = 8 << 20  # bytes of a large file that are requested at once
COMPARED: Final = 64 << 20  # bytes of a cached file that is compared with its SHA-256 again; some 0.1 s
IN_FLIGHT: Final = 32  # requests at once, of all splits
_ATTEMPTS = 2  # to fetch a file whose bytes arrive with a wrong SHA-256
_POLL = 0.05  # seconds between looks at what another process fetches
_STALLED = 10.0  # seconds without a change there, after which that is said

_T = TypeVar("_T")

log = logging.getLogger("petseg")


@dataclass(frozen=True)
class FileSpec:
    """A file that the manifest describes: its name, size in bytes and SHA-256."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class TarSpec(FileSpec):
    """A tar that the manifest describes, with the number of its samples and the index of the first one."""

    samples: int
    first: int


@dataclass(frozen=True)
class SampleSpan:
    """Where a sample is in its tar: ``place`` among its samples, bytes ``start`` to ``stop``.

    ``members`` are (offset, length, CRC-32) of image, mask and meta, within the span.
    """

    place: int
    start: int
    stop: int
    members: tuple[tuple[int, int, int], ...]

    def matches(self, data: memoryview, *, members: int = 3) -> bool:
        """Whether the bytes of the span are those that the table describes, those of the first members at least."""
        spans = self.members[:members]
        parts = ((data[at - self.start : at - self.start + length], crc) for at, length, crc in spans)
        return all(zlib_ng.crc32(part) == crc for part, crc in parts)


def neighbours(spans: dict[int, SampleSpan]) -> list[dict[int, SampleSpan]]:
    """Return samples of a tar, by index, in groups that are each fetched by one request, of up to about PART bytes."""
    groups: list[dict[int, SampleSpan]] = []
    start = stop = 0
    for index, span in sorted(spans.items(), key=lambda pair: pair[1].start):
        if not groups or span.start - stop > MOST_GAP or span.stop - start > PART:
            groups.append({})
            start = span.start
        groups[-1][index] = span
        stop = span.stop
    return groups


def memory_file(spec: TarSpec) -> CachedFile:
    """Return a file in memory for samples of a tar that the cache has no room for; it takes what is written to it."""
    descriptor = os.memfd_create("petseg-samples")
    size = spec.bytes + spec.samples
    try:
        os.ftruncate(descriptor, size)
    except OSError as error:
        os.close(descriptor)
        raise PetsegError(f"no file of {size} bytes can be made: {error.strerror}; run petseg-shard verify") from None
    return CachedFile(Path(spec.name), descriptor, size=spec.bytes, samples=spec.samples, complete=False)


@dataclass(frozen=True)
class RemoteFiles:
    """A set's files by name. Pickles as address, cache and options; everything else is per process.

    The methods ``*_async`` run in the thread of :mod:`shards.store.cloud.request_loop`, which alone changes the state.
    """

    store: ObjectStore
    cache: ContentCache
    fetch: Fetch
    _pinned: dict[str, ObjectStatus] = field(default_factory=dict, compare=False, repr=False)
    _limits: list[asyncio.Semaphore] = field(default_factory=list, compare=False, repr=False)
    _turns: list[asyncio.Semaphore] = field(default_factory=list, compare=False, repr=False)
    _kept: dict[str, CachedFile] = field(default_factory=dict, compare=False, repr=False)  # open, so not removed
    _whole: list[str] = field(default_factory=list, compare=False, repr=False)  # why files are not fetched in ranges
    _said: list[str] = field(default_factory=list, compare=False, repr=False)  # which file is waited for, once

    def __getstate__(self) -> dict[str, Any]:
        return {"store": self.store, "cache": self.cache, "fetch": self.fetch}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _pinned={}, _limits=[], _turns=[], _kept={}, _whole=[], _said=[])

    def local_files(self, *specs: FileSpec) -> list[CachedFile]:
        """Return files, fetched at once where they are not in the cache; they stay there as long as this object exists.

        One that the cache has is compared with its SHA-256 up to :data:`COMPARED` bytes, and fetched again if damaged.
        The records of a larger table have checksums of their own.

        Raises ``FormatError`` if it is not the file that the manifest describes, ``StoreError`` if the store fails.
        """
        for spec in specs:
            found = None if spec.sha256 in self._kept else self.cache.open(spec.sha256, size=spec.bytes)
            if found is not None:
                if spec.bytes <= COMPARED and hashlib.sha256(found[:]).hexdigest() != spec.sha256:
                    self.cache.forget(spec.sha256)
                else:
                    self._kept[spec.sha256] = found
        if missing := [spec for spec in specs if spec.sha256 not in self._kept]:
            fetched = run(self._together(missing))
            self._kept.update((spec.sha256, file) for spec, file in zip(missing, fetched, strict=True))
        return [self._kept[spec.sha256] for spec in specs]

    async def _together(self, specs: list[FileSpec]) -> list[CachedFile]:
        return await asyncio.gather(*(self.whole_async(spec, release=lambda: None) for spec in specs))

    def forget_damaged(self, spec: FileSpec) -> bool:
        """Remove a file from the cache if it is damaged there; return whether it was."""
        found = self._kept.get(spec.sha256)
        if found is None or hashlib.sha256(found[:]).hexdigest() == spec.sha256:
            return False
        self.cache.forget(spec.sha256)
        del self._kept[spec.sha256]
        return True

    async def status_async(self, spec: FileSpec) -> ObjectStatus:
        """Return the version of a file that is read from now on; ``FormatError`` unless it has the right size."""
        if spec.name not in self._pinned:
            status = await self.store.status_async(spec.name)
            if status.size != spec.bytes:
                raise FormatError(
                    f"{self.store.describe(spec.name)} has {status.size} bytes, the manifest says {spec.bytes}; run "
                    "petseg-shard verify, then build or copy the set again"
                )
            self._pinned.setdefault(spec.name, status)
        return self._pinned[spec.name]

    async def range_async(
        self, spec: FileSpec, start: int, length: int, *, write: Write | None = None, ranged: bool = True
    ) -> memoryview:
        """Return a part of the version that was first seen; ``ObjectChangedError`` names another one.

        See :meth:`ObjectStore.read_range_async` for ``write``, which may be given bytes of another version before, and
        ``ranged``.
        """
        read = partial(self.store.read_range_async, spec.name, start, length, write=write, ranged=ranged)
        if not self._limits:
            self._limits.append(asyncio.Semaphore(IN_FLIGHT))
        async with self._limits[0]:
            if spec.name not in self._pinned:
                # The first reply says which version is read, so that the server is not asked for that before.
                try:
                    found, data = await read()
                    if found.size == spec.bytes and self._pinned.setdefault(spec.name, found) == found:
                        return data
                except ObjectEndsError:
                    found = None
                # Of another size, or of another version than a reply that came meanwhile: once more, with conditions.
                match = await self.status_async(spec)
                if found is None or found.size != spec.bytes:
                    self.store.failures["a wrong size"] += 1
            else:
                match = self._pinned[spec.name]
            return (await read(match=match))[1]

    async def whole_async(self, spec: FileSpec, *, release: Callable[[], None], samples: int = 0) -> CachedFile:
        """Fetch a file into the cache, unless another process does, and return it, locked.

        Raises ``FormatError`` if what arrives has another SHA-256 each time.
        """
        if spec.bytes > self.cache.most_bytes:
            raise CacheTooSmallError(
                f"{self.store.describe(spec.name)} has {spec.bytes} bytes, more than the {self.cache.most_bytes} that "
                f"the cache {self.cache.folder} may hold: give more with {option('cache_bytes')}"
                + f", or fetch samples alone with {option('fetch', 'range')}"
                * isinstance(spec, TarSpec)
            )
        attempts, since, fetched = 0, time.monotonic(), None
        while True:
            found = self.cache.open(spec.sha256, size=spec.bytes, samples=samples)
            if found is not None:
                return found
            with self.cache.fetching(spec.sha256) as descriptor:
                if descriptor is not None and not self.cache.path(spec.sha256).exists():
                    await self.making_room(spec.bytes, release, into=descriptor)
                    if await self._fetch_into(descriptor, spec, release):
                        self.cache.publish(spec.sha256, descriptor)  # if the cache was removed, it is fetched again
                        continue
                    attempts += 1
                    self.store.failures["another SHA-256"] += 1
            if attempts == _ATTEMPTS:
                raise FormatError(
                    f"{self.store.describe(spec.name)} is damaged: its SHA-256 is not the manifest's; run petseg-shard "
                    "verify, then build or copy the set again"
                )
            if descriptor is None:
                await asyncio.sleep(_POLL)
                before, fetched = fetched, self.cache.fetched(spec.sha256)
                if fetched != before:
                    since = time.monotonic()
                elif time.monotonic() - since > _STALLED and not self._said:
                    self._say_who_stalls(spec)

    def _say_who_stalls(self, spec: FileSpec) -> None:
        """Say what is waited for. It is not taken over: a process that goes on could publish its successor's file."""
        self._said.append(
            f"waiting for {self.store.describe(spec.name)}, which another process fetches into the cache "
            f"{self.cache.folder}; it has written nothing for {_STALLED:.0f} s; if it is stopped (Ctrl-Z), continue or "
            "end it"
        )
        log.warning("%s", printable(self._said[0]))

    async def in_turn(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run what fetches a sample or a tar when few others run: each has files open.

        If it is cancelled before its turn, the caller has to close ``work``.
        """
        if not self._turns:
            self._turns.append(asyncio.Semaphore(max(1, share_of_files(4 * IN_FLIGHT) // 4)))
        async with self._turns[0]:
            return await work

    async def making_room(self, needed: int, release: Callable[[], None], *, into: int | None = None) -> None:
        """See :meth:`ContentCache.make_room`; in another thread, since it may look at every file."""
        if into is not None or not self.cache.has_room(needed):
            await asyncio.to_thread(self.cache.make_room, needed, release=release, into=into)

    async def writing(self, write: Callable[[], _T], needed: int, release: Callable[[], None]) -> _T:
        """Write to the cache; on a full disk, make room and write again."""
        try:
            return write()
        except OSError as error:
            if error.errno not in FULL:
                raise self.cache.failure(error) from None
        with contextlib.suppress(PetsegError):
            by = max(needed, self.cache.used_bytes() // 4)
            await asyncio.to_thread(self.cache.shrink, by, release=release)
        try:
            return write()
        except OSError as error:
            raise self.cache.failure(error) from None

    async def _fetch_into(self, descriptor: int, spec: FileSpec, release: Callable[[], None]) -> bool:
        """Fetch a file in parts, at once, and return whether its SHA-256 is right."""

        async def write(start: int, data: memoryview) -> None:
            await self.writing(lambda: write_at(descriptor, data, start), len(data), release)

        async def part(start: int) -> None:
            await self.range_async(spec, start, min(PART, spec.bytes - start), write=write)

        tasks = [] if self._whole else [asyncio.ensure_future(part(start)) for start in range(0, spec.bytes, PART)]
        try:
            await asyncio.gather(*tasks)
        except BaseException as error:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if not isinstance(error, NoRangesError):
                raise
            self._whole.append(str(error))
        if self._whole and spec.bytes:
            await self.range_async(spec, 0, spec.bytes, write=write, ranged=False)

        def digest() -> str:
            with os.fdopen(os.dup(descriptor), "rb") as file:
                file.seek(0)
                return hashlib.file_digest(file, "sha256").hexdigest()

        return await asyncio.to_thread(digest) == spec.sha256
