"""The samples of a split in an object store: fetched into the cache, one by one or with their whole tar."""

import asyncio
import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shards.errors import CacheTooSmallError, FormatError, PetsegError, SampleError, option, printable
from shards.store.byte_ranges import OpenFiles, share_of_files
from shards.store.cloud.request_loop import run, submit
from shards.store.remote.cached_file import CachedFile, is_at
from shards.store.remote.remote_files import Fetch, RemoteFiles, SampleSpan, TarSpec, memory_file, neighbours

MOST_OPEN: Final = 256  # tars that are kept open
WHOLE_FROM: Final = 0.25  # of a tar's bytes: where more is needed soon, `auto` fetches all of it
_ATTEMPTS = 3  # to fetch a sample whose bytes arrive with a wrong checksum

Indices = npt.NDArray[np.int64]

log = logging.getLogger("petseg")


@dataclass(frozen=True)
class CachedTars:
    """One split's tars. :meth:`hold` is thread-safe; each process has its own object.

    Args:
        files: the set's files.
        tar: describes a tar by its number.
        spans: describes samples by their indices in the split, at least one.
        total: bytes of the whole set, which decides whether tars stay open: an open file is never removed.
    """

    files: RemoteFiles
    tar: Callable[[int], TarSpec]
    spans: Callable[[Sequence[int]], dict[int, SampleSpan]]
    total: int
    damaged: set[int] = field(default_factory=set)  # samples whose bytes do not match the table, by index
    _tasks: dict[Any, "asyncio.Task[CachedFile]"] = field(default_factory=dict)  # by (shard, index); whole: (shard, -1)
    _ahead: "set[asyncio.Future[Any]]" = field(default_factory=set)
    _begun: "list[Future[None]]" = field(default_factory=list)  # the last call of start(), which fills these
    _open: list[OpenFiles] = field(default_factory=list)
    _unkept: list[str] = field(default_factory=list)  # why samples were not kept in the cache, once
    _lock: Any = field(default_factory=threading.Lock)  # of what is kept open, against tars that are being removed

    def __post_init__(self) -> None:
        fits = self.total <= self.files.cache.most_bytes
        self._open.append(OpenFiles(max(1, share_of_files(MOST_OPEN) // 2) if fits else 0))

    @property
    def fetch(self) -> Fetch:
        """How samples are fetched."""
        return self.files.fetch

    @property
    def retries(self) -> Counter[str]:
        """How many requests failed and were repeated in this process, by reason."""
        return self.files.store.failures

    def hold(self, shards: Sequence[int], indices: Sequence[int]) -> dict[int, CachedFile]:
        """Return open tars that have some samples (of the split, with the tars' numbers), fetched where necessary.

        Where the cache is too small for them, or its disk is full, they are in memory instead. Bytes that do not match
        the table, time after time, are left out, and the sample is in :attr:`damaged`. Raises ``StoreError`` where the
        store fails, ``PetsegError`` where the cache cannot be used.
        """
        held = {shard: self._find(shard) for shard in set(shards)}
        if self._missing(held, shards, indices):
            for file in held.values():
                if file is not None:
                    file.refresh()
            try:
                self._complete(held, shards, indices)
            except CacheTooSmallError as error:
                with self._lock:  # several threads may meet it at once
                    first = not self._unkept
                    self._unkept[:] = [str(error)]
                if first:
                    log.warning("%s; until then samples that do not fit are fetched each time", printable(error))
                return run(self._read_through(shards, indices))
        self._keep(held)
        return {shard: file for shard, file in held.items() if file is not None}

    def hold_one(self, shard: int, index: int) -> CachedFile:
        """Return an open tar that has one sample; raise ``SampleError`` if its bytes do not match the table."""
        file = self.hold([shard], [index]).get(shard)
        if file is None or index in self.damaged:
            raise SampleError(
                f"{self.files.store.describe(self.tar(shard).name)}: the bytes of sample {index} do not match their "
                "checksums in the table; run petseg-shard verify"
            )
        return file

    def start(self, shards: Sequence[int], indices: Sequence[int], *, whole: Iterable[int]) -> None:
        """Begin to fetch samples that will be needed; those in the tars of ``whole`` with their tar."""
        tars = set(whole)
        held = {shard: self._open[0].get(shard) for shard in set(shards)}
        if missing := self._missing(held, shards, indices):
            self._begun[:] = [submit(self._start(missing, tars))]

    def stop(self) -> None:
        """Give up what :meth:`start` began and nobody waits for."""
        if self._tasks or self._ahead or not all(begun.done() for begun in self._begun):
            run(self._cancel())

    def close(self) -> None:
        """Close all tars; a later use opens them again."""
        self._open[0].drop(self._open[0].numbers())

    def forget(self, shards: Sequence[int], indices: Sequence[int]) -> None:
        """Fetch samples again that have turned out to be damaged in the cache."""
        for shard, index in zip(shards, indices, strict=True):
            file, spec = self._find(shard), self.tar(shard)
            if file is not None and not file.complete:
                with contextlib.suppress(OSError):  # in a cache that may only be read
                    file.mark(index - spec.first, 0)
            elif file is not None:
                with self._lock:
                    self.files.cache.forget(spec.sha256)
                    self._open[0].drop([shard])
            self.damaged.discard(index)

    def _keep(self, held: dict[int, CachedFile | None]) -> None:
        """Keep tars open, except those that another thread has found damaged, and removed, since they were opened."""
        for shard, file in held.items():
            if file is not None and self._open[0].get(shard) is not file:
                with self._lock:
                    if _is_current(file):
                        self._open[0].keep(shard, file)

    def _find(self, shard: int) -> CachedFile | None:
        """Return a tar that is in the cache, complete or not."""
        file = self._open[0].get(shard)
        if file is not None:
            return file  # type: ignore[return-value] # nothing else is kept
        spec, cache = self.tar(shard), self.files.cache
        return cache.open(spec.sha256, size=spec.bytes, samples=spec.samples) or cache.open_ranges(
            spec.sha256, size=spec.bytes, samples=spec.samples, create=False
        )

    def _complete(self, held: dict[int, CachedFile | None], shards: Sequence[int], indices: Sequence[int]) -> None:
        """Fetch what open tars lack. One that was removed from the cache is begun anew there, without what it had."""
        for _ in range(_ATTEMPTS + 1):
            if not (missing := self._missing(held, shards, indices)):
                return
            held.update(run(self._fetch(missing, whole=self.files.fetch == "shard")))
        cache = self.files.cache
        raise CacheTooSmallError(
            f"the cache {cache.folder} is too small: samples were removed before they could be used; give "
            f"{option('cache_bytes')} more than {cache.most_bytes}"
        )

    def _missing(self, held: dict[int, Any], shards: Sequence[int], indices: Sequence[int]) -> dict[int, list[int]]:
        """Return by shard the indices of samples that are not there."""
        missing: dict[int, list[int]] = {}
        for shard, index in zip(shards, indices, strict=True):
            file = held[shard]
            if (file is None or not file.present[index - self.tar(shard).first]) and index not in self.damaged:
                missing.setdefault(shard, []).append(index)
        return missing

    async def _start(self, missing: dict[int, list[int]], whole: set[int]) -> None:
        for shard, indices in missing.items():
            for task in self._tasks_for(shard, indices, whole=shard in whole):
                self._ahead.add(task)
                task.add_done_callback(self._forget_task)

    def _forget_task(self, task: "asyncio.Future[Any]") -> None:
        self._ahead.discard(task)
        if not task.cancelled():
            task.exception()  # reported by the hold() that needs it, which tries again

    async def _cancel(self) -> None:
        for task in list(self._ahead):
            task.cancel()
        await asyncio.gather(*self._ahead, return_exceptions=True)

    async def _fetch(self, missing: dict[int, list[int]], *, whole: bool) -> dict[int, CachedFile]:
        found: dict[int, CachedFile] = {}
        groups = {shard: self._tasks_for(shard, indices, whole=whole) for shard, indices in missing.items()}
        tasks = [task for group in groups.values() for task in group]
        done = await asyncio.gather(*map(asyncio.shield, tasks), return_exceptions=True)
        results = dict(zip(tasks, done, strict=True))
        for shard, group in groups.items():
            files = [file for task in group if isinstance(file := results[task], CachedFile)]
            if files:
                found[shard] = max(files, key=lambda file: file.complete)
                found[shard].refresh()
        failed = [x for x in done if isinstance(x, BaseException) and not isinstance(x, asyncio.CancelledError)]
        if failed and self._missing({shard: found.get(shard) for shard in missing}, *_pairs(missing)):
            raise failed[0]
        return found

    async def _read_through(self, shards: Sequence[int], indices: Sequence[int]) -> dict[int, CachedFile]:
        """Fetch samples into files in memory, one for each tar, that end when nobody uses them."""
        files: dict[int, CachedFile] = {}
        work = []
        for shard, wanted in self._missing(dict.fromkeys(shards), shards, indices).items():
            spec = self.tar(shard)
            files[shard] = memory_file(spec)
            work += [self._fill(files[shard], spec, run_of) for run_of in self._runs(wanted, spec.bytes)]
        await asyncio.gather(*work)
        return files

    def _tasks_for(self, shard: int, indices: list[int], *, whole: bool) -> "set[asyncio.Task[CachedFile]]":
        """Return the tasks that fetch some samples of a tar, those that run already or new ones."""
        if (running := self._tasks.get((shard, -1))) is not None:
            return {running}
        if whole:
            return {self._new_task(shard, [-1], self._whole(shard, indices))}
        tasks = {self._tasks[shard, index] for index in indices if (shard, index) in self._tasks}
        rest = sorted(index for index in set(indices) if (shard, index) not in self._tasks)
        for run_of in self._runs(rest, self.tar(shard).bytes):
            tasks.add(self._new_task(shard, [*run_of], self._samples(shard, run_of)))
        return tasks

    def _new_task(self, shard: int, keys: list[int], work: Any) -> "asyncio.Task[CachedFile]":
        task: asyncio.Task[CachedFile] = asyncio.ensure_future(self.files.in_turn(work))
        self._tasks.update(dict.fromkeys(((shard, key) for key in keys), task))

        def finished(_: object) -> None:
            work.close()
            for key in keys:
                self._tasks.pop((shard, key), None)

        task.add_done_callback(finished)
        return task

    def _runs(self, indices: list[int], size: int) -> list[dict[int, SampleSpan]]:
        """Return samples of a tar in groups for one request each; one that its table places elsewhere is damaged."""
        spans = self.spans(indices) if indices else {}
        self.damaged.update(index for index, span in spans.items() if not 0 <= span.start < span.stop <= size)
        return neighbours({index: span for index, span in spans.items() if index not in self.damaged})

    async def _whole(self, shard: int, indices: list[int]) -> CachedFile:
        spec = self.tar(shard)
        try:
            return await self.files.whole_async(spec, release=self.close, samples=spec.samples)
        except FormatError:
            # Each sample has a checksum of its own: those that are sound can be used.
            runs = self._runs(sorted(set(indices)), spec.bytes)
            files = await asyncio.gather(*(self._samples(shard, run_of) for run_of in runs))
            if not files:
                raise
            return files[-1]

    async def _samples(self, shard: int, spans: dict[int, SampleSpan]) -> CachedFile:
        """Fetch neighbouring samples of a tar, in one request unless their bytes are wrong."""
        spec, cache = self.tar(shard), self.files.cache
        needed = sum(span.stop - span.start for span in spans.values())
        await self.files.making_room(needed + (spec.samples >> 3), self.close)
        file = cache.open(spec.sha256, size=spec.bytes, samples=spec.samples)
        if file is not None:
            return file
        file = cache.open_ranges(spec.sha256, size=spec.bytes, samples=spec.samples, create=True)
        if file is None:
            raise PetsegError(f"the cache {cache.folder} cannot be written to; choose another {option('cache')}")
        file.refresh()
        return await self._fill(file, spec, {i: span for i, span in spans.items() if not file.present[span.place]})

    async def _fill(self, file: CachedFile, spec: TarSpec, spans: dict[int, SampleSpan]) -> CachedFile:
        """Fetch neighbouring samples into a file."""
        if not spans:
            return file
        for left in reversed(range(_ATTEMPTS)):
            start, stop = min(span.start for span in spans.values()), max(span.stop for span in spans.values())
            data = await self.files.range_async(spec, start, stop - start)
            for index, span in list(spans.items()):
                part = data[span.start - start : span.stop - start]
                if span.matches(part, members=3 if left else 2):  # the loader does without meta
                    write = partial(file.add, span.place, span.start, part)
                    await self.files.writing(write, len(part), self.close)
                    del spans[index]
                    self.damaged.discard(index)
            if not spans:
                return file
            self.files.store.failures["wrong bytes"] += 1
        self.damaged.update(spans)
        return file


def _is_current(file: CachedFile) -> bool:
    """Whether the cache still has this file under its name."""
    with contextlib.suppress(OSError):
        return is_at(file.path, file.descriptor)
    return False


def _pairs(groups: dict[int, list[int]]) -> tuple[list[int], list[int]]:
    pairs = [(shard, index) for shard, indices in groups.items() for index in indices]
    return [shard for shard, _ in pairs], [index for _, index in pairs]
